"""Answers in NoveltyBench's layout are read whole, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import refusal
from invented_answers import PROMPTS, answer_records, label_records, write_noveltybench

from ddpo_utils.course.noveltybench import (
    DIGESTS,
    SOURCES,
    asks_for_writing,
    changed_files,
    load_answers,
    load_labels,
)
from ddpo_utils.storage.files import write_jsonl


@pytest.mark.parametrize("inside", ["sample_data", "."])
def test_a_clone_and_a_bare_folder_give_all_answers(tmp_path: Path, inside: str) -> None:
    answers = load_answers(write_noveltybench(tmp_path, inside))
    assert list(answers) == ["prompt_id", "prompt", "source", "text", "number"]
    assert tuple(answers["source"].unique()) == SOURCES
    for source, group in answers.groupby("source"):
        assert list(group["prompt_id"].unique()) == list(PROMPTS)
        for record in answer_records(source):
            texts = group[group["prompt_id"] == record["id"]]
            assert texts["text"].tolist() == record["generations"]
            assert texts["number"].tolist() == list(range(len(texts)))
            assert set(texts["prompt"]) == {record["prompt"]}


def test_labels_are_pairs_with_a_judgement(tmp_path: Path) -> None:
    folder = write_noveltybench(tmp_path)
    labels = load_labels(folder, "val")
    assert labels["alike"].tolist() == [record["similar"] == 1 for record in label_records(12)]
    assert labels["second"].tolist() == [record["generation_1"] for record in label_records(12)]
    assert len(load_labels(folder, "train")) == 30


@pytest.mark.parametrize(
    ("prompt", "asks"),
    [
        ("Write a haiku.", True),
        ("I want a monster: describe its backstory.", True),
        ("Tell me a rumour.", False),  # no form
        ("Name the cat in my story.", False),  # no request
        ("Writer of a story", False),  # whole words only
    ],
)
def test_which_prompts_ask_for_writing(prompt: str, asks: bool) -> None:
    assert asks_for_writing(prompt) is asks


def test_the_wrong_folder_is_one_sentence(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        message = refusal(load_answers, folder)
        assert str(folder) in message and "clone" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("", encoding="utf-8"),
        lambda path: path.write_text('{"id": "curated-0", "pro', encoding="utf-8"),
        lambda path: write_jsonl(path, answer_records("gpt-4o")[1:]),
        lambda path: write_jsonl(path, answer_records("gpt-4o") * 2),
        lambda path: write_jsonl(path, [r | {"prompt": "?"} for r in answer_records("gpt-4o")]),
        lambda path: write_jsonl(
            path, [r | {"generations": ["a", " "]} for r in answer_records("gpt-4o")]
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, change) -> None:
    path = write_noveltybench(tmp_path) / "sample_data" / "gpt-4o.jsonl"
    change(path)
    assert str(path) in refusal(load_answers, tmp_path)


def test_faulty_labels_are_refused(tmp_path: Path) -> None:
    folder = write_noveltybench(tmp_path)
    path = folder / "sample_data" / "labels-val.jsonl"
    write_jsonl(path, [record | {"similar": 2} for record in label_records(3)])
    assert str(path) in refusal(load_labels, folder, "val")
    path.unlink()
    assert str(path) in refusal(load_labels, folder, "val")


def test_other_files_than_the_recorded_ones_are_noticed(tmp_path: Path) -> None:
    assert changed_files(write_noveltybench(tmp_path)) == list(DIGESTS)
