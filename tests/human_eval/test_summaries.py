"""Plot summaries: long stories alone are sent, and a failed summary is never shown."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from teller import completion

from ddpo_utils.human_eval.summaries import INSTRUCTION, summarise

pytest_plugins = "answer_fixtures"
ANSWERS = {
    150: None,  # words of a story -> what the model says of it, and why it stopped; None: not sent
    151: ("A sea.", "stop"),
    40: None,
    200: ("", "stop"),
    201: ("It begins", "length"),
    202: ("sea " * 202, "stop"),
}


def test_long_stories_alone_are_sent_and_failed_summaries_not_shown(
    teller, endpoint, tmp_path: Path
) -> None:
    texts = [" ".join([f"story{words}", *["sea"] * (words - 1)]) for words in ANSWERS]
    samples = pd.DataFrame({"prompt_id": "p", "text": texts}, index=range(7, 13))
    requests = {f"{INSTRUCTION}\n\nThe story:\n\n{text}": len(text.split()) for text in texts}

    def answer(body, number):
        return 200, completion(*ANSWERS[requests[body["messages"][0]["content"]]])

    teller.answer = answer
    found = summarise(samples, tmp_path / "s.jsonl", endpoint())
    faults = ["", "", "", "empty", "cut", "as long as the story"]
    assert found["summary_fault"].tolist() == faults
    assert found["summarised"].tolist() == [False, True, *[False] * 4]
    assert found["text"].tolist() == [texts[0], "A sea.", *texts[2:]]
    assert found["story"].equals(samples["text"])
    again = summarise(samples, tmp_path / "s.jsonl", endpoint())  # as the other system's
    pd.testing.assert_frame_equal(again, found)
    assert len(teller.requests) == 4
