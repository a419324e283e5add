"""Plot summaries: long stories alone are sent, and a failed summary is never shown."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from teller import completion

from ddpo_utils.human_eval.summaries import INSTRUCTION, summarise

pytest_plugins = "answer_fixtures"


def frame(*lengths: int) -> pd.DataFrame:
    """Samples with texts of these lengths in words, with an index that does not start at 0."""
    texts = [" ".join([f"story{length}", *["sea"] * (length - 1)]) for length in lengths]
    return pd.DataFrame({"prompt_id": "p", "text": texts}, index=range(7, 7 + len(texts)))


def test_long_stories_alone_are_sent_with_the_instruction(teller, endpoint, tmp_path: Path) -> None:
    samples = frame(150, 151, 40, 400)
    teller.answer = lambda body, number: (200, completion("It sails."))
    found = summarise(samples, tmp_path / "s.jsonl", endpoint())
    requests = sorted((body["messages"][0]["content"] for body in teller.requests), key=len)
    stories = samples["text"][[8, 10]]
    assert requests == [f"{INSTRUCTION}\n\nThe story:\n\n{story}" for story in stories]
    assert found["summarised"].tolist() == [False, True, False, True]
    assert (found["summary_fault"] == "").all()
    shown = [samples["text"][7], "It sails.", samples["text"][9], "It sails."]
    assert found["text"].tolist() == shown
    assert found["story"].equals(samples["text"])
    again = summarise(samples, tmp_path / "s.jsonl", endpoint())  # as the other system's
    pd.testing.assert_frame_equal(again, found)
    assert len(teller.requests) == 2


def test_a_failed_summary_is_not_shown(teller, endpoint, tmp_path) -> None:
    samples = frame(200, 201, 202, 203)
    answers = [("", "stop"), ("It begins", "length"), ("sea " * 202, "stop"), ("A sea.", "stop")]
    teller.answer = lambda body, number: (200, completion(*answers[number]))
    found = summarise(samples, tmp_path / "s.jsonl", endpoint(concurrency=1))
    assert found["summary_fault"].tolist() == ["empty", "cut", "as long as the story", ""]
    assert found["summarised"].tolist() == [False, False, False, True]
    assert found["text"].tolist() == [*samples["text"][:3], "A sea."]
