"""Bars are shown where they are wanted, and nowhere under TQDM_DISABLE=1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from awkward_posts import small_posts
from sampled import sample

from ddpo_utils.corpus.posts import read_rows
from ddpo_utils.embeddings.corpus_cache import embed_corpus

SCRIPT = """
from ddpo_utils.settings import progress_bar
for shown, name in ((True, "first"), (False, "hidden")):
    assert list(progress_bar(range(3), shown, desc=name)) == [0, 1, 2]
with progress_bar(total=3, desc="second") as bar:
    bar.update(3)
"""


@pytest.mark.parametrize(("variable", "shown"), [("", True), ("1", False)])
def test_the_variable_silences_every_bar(variable: str, shown: bool):
    """stderr is no terminal here, as in a notebook."""
    environment = {**os.environ, "TQDM_DISABLE": variable}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=True
    )
    assert ("first" in done.stderr) == ("second" in done.stderr) == shown
    assert "hidden" not in done.stderr and done.stdout == ""


def test_no_long_work_overrules_it(tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """The tests run with TQDM_DISABLE=1."""
    embed_corpus(["a light", "a sea"], "stylometric", tmp_path)
    sample(tiny, tmp_path / "samples.jsonl", progress=True)
    assert list(read_rows(small_posts(tmp_path / "posts.parquet")))
    assert capfd.readouterr().err == ""
