"""What the tests of commands share."""

from __future__ import annotations

import pytest


def error_line(capture: pytest.CaptureFixture[str]) -> str:
    """What a failing command wrote to stderr: one line that starts with `error: `."""
    text = capture.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1 and "Traceback" not in text, text
    return text
