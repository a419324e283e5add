"""Plot summaries: long stories alone are sent, and a failed summary is never shown."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from teller import completion

from ddpo_utils.human_eval.summaries import INSTRUCTION, summarise

pytest_plugins = "answer_fixtures"


def frame(*lengths: int, name: str = "word") -> pd.DataFrame:
    rows = [
        (f"p{i}", f"Prompt {i}.", 0, f"{name}{i} " + "sea " * (length - 1))
        for i, length in enumerate(lengths)
    ]
    columns = ["prompt_id", "prompt", "sample", "text"]
    return pd.DataFrame(rows, columns=columns, index=range(7, 7 + len(rows)))


def test_long_stories_alone_are_sent_with_the_instruction(teller, endpoint, tmp_path: Path) -> None:
    samples = frame(150, 151, 40, 400)
    before = samples.copy()
    teller.answer = lambda body, number: (200, completion("It sails."))
    found = summarise(samples, tmp_path / "s.jsonl", endpoint())
    requests = sorted((body["messages"][0]["content"] for body in teller.requests), key=len)
    stories = samples["text"][[8, 10]]
    assert requests == [f"{INSTRUCTION}\n\nThe story:\n\n{story}" for story in stories]
    assert found["summarised"].tolist() == [False, True, False, True]
    assert (found["summary_fault"] == "").all()
    assert found["text"].tolist() == [
        samples["text"][7],
        "It sails.",
        samples["text"][9],
        "It sails.",
    ]
    assert found["story"].tolist() == samples["text"].tolist()
    assert found.index.equals(samples.index)
    pd.testing.assert_frame_equal(samples, before)
    again = summarise(samples, tmp_path / "s.jsonl", endpoint())  # as the other system's
    pd.testing.assert_frame_equal(again, found)
    assert len(teller.requests) == 2


def test_a_failed_summary_is_counted_and_not_shown(teller, endpoint, tmp_path, capsys) -> None:
    samples = frame(200, 201, 202, 203, 204)
    answers = [
        ("", "stop"),
        ("It begins", "length"),
        ("sea " * 202, "stop"),
        ("A sea.", "stop"),
        (None, "stop"),
    ]
    teller.answer = lambda body, number: (200, completion(*answers[number]))
    found = summarise(samples, tmp_path / "s.jsonl", endpoint(concurrency=1))
    assert found["summary_fault"].tolist() == ["empty", "cut", "as long as the story", "", "empty"]
    assert found["summarised"].tolist() == [False, False, False, True, False]
    assert found["text"].tolist() == [*samples["text"][:3], "A sea.", samples["text"].iloc[4]]
    printed = capsys.readouterr().out
    assert "4 of 5 summaries failed (2 empty, 1 cut, 1 as long as the story)" in printed
