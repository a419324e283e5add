"""Plot summaries: the instruction is sent, short stories stay whole, and a failed summary is never shown."""

from __future__ import annotations

import pandas as pd
import pytest
from teller import completion

from ddpo_utils import CourseError
from ddpo_utils.human_eval.comparisons import build_comparisons
from ddpo_utils.human_eval.summaries import INSTRUCTION, summarise
from ddpo_utils.models.sampling import read_samples

pytest_plugins = "answer_fixtures"


def frame(*lengths: int, name: str = "word") -> pd.DataFrame:
    rows = [
        {
            "prompt_id": f"p{i}",
            "prompt": f"Prompt {i}.",
            "sample": 0,
            "text": f"{name}{i} " + "sea " * (length - 1),
        }
        for i, length in enumerate(lengths)
    ]
    return pd.DataFrame(rows, index=range(7, 7 + len(rows)))


def test_the_instruction_and_the_story_are_in_each_request_and_short_stories_are_not_sent(
    teller, endpoint, tmp_path
):
    samples = frame(150, 151, 40, 400)
    before = samples.copy()
    teller.answer = lambda body, number: (
        200,
        completion(f"{body['messages'][0]['content'].split()[-400:][0]} sails."),
    )
    found = summarise(samples, tmp_path / "s.jsonl", endpoint(), progress=False)
    sent = sorted((body["messages"][0]["content"] for body in teller.requests), key=len)
    assert len(sent) == 2
    for text, row in zip(sent, (8, 10), strict=True):
        assert text.startswith(INSTRUCTION) and text.endswith(
            f"The story:\n\n{samples['text'][row]}"
        )
    assert "plot" in INSTRUCTION and "how it ends" in INSTRUCTION
    assert (
        found["summarised"].tolist() == [False, True, False, True]
        and (found["summary_fault"] == "").all()
    )
    assert found["text"][10] == "word3 sails." and found["text"][[7, 9]].equals(
        samples["text"][[7, 9]]
    )
    assert found["story"].equals(samples["text"].rename("story")) and found.index.equals(
        samples.index
    )
    pd.testing.assert_frame_equal(samples, before)


def test_a_failed_summary_is_counted_said_and_not_shown(teller, endpoint, tmp_path, capsys):
    samples = frame(200, 201, 202, 203, 204)
    kinds = [
        ("", "stop"),
        ("It begins", "length"),
        ("sea " * 202, "stop"),
        ("A sea.", "stop"),
        (None, "stop"),
    ]
    teller.answer = lambda body, number: (200, completion(*kinds[number]))
    found = summarise(samples, tmp_path / "s.jsonl", endpoint(concurrency=1), progress=False)
    assert found["summary_fault"].tolist() == ["empty", "cut", "as long as the story", "", "empty"]
    assert found["summarised"].tolist() == [False, False, False, True, False]
    assert found["text"].tolist() == [*samples["text"][:3], "A sea.", samples["text"].iloc[4]]
    said = capsys.readouterr().out
    assert (
        "4 of 5 summaries failed (2 empty, 1 cut, 1 as long as the story)" in said
        and "shown whole" in said
    )


def test_both_systems_share_a_file_and_no_summary_is_paid_for_twice(teller, endpoint, tmp_path):
    path, one, two = tmp_path / "s.jsonl", frame(200, 300), frame(10, 300, name="other")
    first = summarise(one, path, endpoint(), longer_than=100, progress=False)
    other = summarise(two, path, endpoint(), longer_than=100, progress=False)
    assert len(teller.requests) == len(read_samples(path)) == 3
    pd.testing.assert_frame_equal(
        summarise(one, path, endpoint(), longer_than=100, progress=False), first
    )
    assert len(teller.requests) == 3
    comparisons, _ = build_comparisons(first, other, ("a", "b"), per_side=1)
    assert comparisons.shown == "summaries"
    shown = {text for item in comparisons.items for text in item["A"] + item["B"]}
    assert shown == {text.strip() for text in (*first["text"], *other["text"])}


def test_without_long_stories_nothing_is_sent_or_written(teller, endpoint, tmp_path):
    found = summarise(frame(3, 150), tmp_path / "s.jsonl", endpoint(), progress=False)
    assert not teller.requests and not found["summarised"].any() and not list(tmp_path.iterdir())


def test_a_local_model_s_cut_summaries_leave_its_stories_whole(local, tmp_path, capsys):
    samples = frame(160, 20, 170)
    found = summarise(samples, tmp_path / "s.jsonl", local, max_tokens=4, progress=False)
    assert found["summary_fault"].tolist() == ["cut", "", "cut"] and found["text"].equals(
        samples["text"]
    )
    assert "2 of 2 summaries failed (2 cut)" in capsys.readouterr().out
    assert read_samples(tmp_path / "s.jsonl")["prompt"].str.startswith(INSTRUCTION).all()


@pytest.mark.parametrize(
    "samples",
    [frame(3).drop(columns="text"), frame(3).assign(summarised=True), frame(3).assign(text=None)],
)
def test_frames_without_texts_or_summarised_already_are_refused(
    teller, endpoint, tmp_path, samples
):
    with pytest.raises(CourseError, match="only once"):
        summarise(samples, tmp_path / "s.jsonl", endpoint())
