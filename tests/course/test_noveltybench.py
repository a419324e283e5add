"""Answers in NoveltyBench's layout are read whole, or refused in one sentence."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from faults import refusal
from invented_answers import PROMPTS, answer_records, label_records, write_noveltybench

from ddpo_utils.cli import main
from ddpo_utils.course import noveltybench
from ddpo_utils.course.noveltybench import (
    COMMIT,
    DIGESTS,
    LABELS_COMMIT,
    SOURCES,
    asks_for_writing,
    load_answers,
)
from ddpo_utils.storage.files import file_digest, write_jsonl
from novelty_labels import changed_files, load_classes, load_labels


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


def test_classes_are_counted(tmp_path: Path) -> None:
    classes = load_classes(write_noveltybench(tmp_path))
    assert list(classes) == list(SOURCES) and set(classes.index) == set(PROMPTS)
    assert classes.loc["curated-1"].tolist() == [8, 10, 10, 10, 10]
    assert classes.loc["curated-0"].tolist() == [4, 5, 5, 5, 5]


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and keeps the paths that were asked for."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *args: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The address of a repository with invented files, whose digests are the recorded ones."""
    root = tmp_path / "served"
    clone = write_noveltybench(tmp_path / "clone", ".")
    digests = {name: file_digest(clone / f"{name}.jsonl") for name in DIGESTS}
    for source in SOURCES:
        write_jsonl(root / COMMIT / "sample_data" / f"{source}.jsonl", answer_records(source))
    for part, count in (("train", 30), ("val", 12)):
        named = [{"labeler": "Somebody", **record} for record in label_records(count)]
        write_jsonl(root / LABELS_COMMIT / "data" / f"{part}.jsonl", named)
    licence = root / LABELS_COMMIT / "LICENSE"
    licence.write_text("Do what you want.\n", encoding="utf-8")
    monkeypatch.setattr(noveltybench, "DIGESTS", digests)
    monkeypatch.setattr(noveltybench, "LICENCE_DIGEST", file_digest(licence))
    monkeypatch.setattr(Quiet, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(noveltybench.fetch_answers, "__defaults__", (address,))
    yield root
    server.shutdown()
    server.server_close()
    thread.join()


def test_files_are_fetched_once_checked_and_without_names(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "answers"
    assert main(["fetch", "--answers", str(folder)]) == 0
    assert str(folder) in capsys.readouterr().out
    assert changed_files(folder) == [] and (folder / "LICENSE").is_file()
    assert "Somebody" not in (folder / "labels-train.jsonl").read_text(encoding="utf-8")
    assert len(load_answers(folder)["source"].unique()) == 5
    assert len(Quiet.asked) == 8
    (folder / "humans.jsonl").write_text("damaged", encoding="utf-8")
    assert main(["fetch", "--answers", str(folder)]) == 0
    assert Quiet.asked[8:] == [f"/{COMMIT}/sample_data/humans.jsonl"]
    assert changed_files(folder) == []


def test_another_file_a_missing_one_and_no_network_are_one_sentence(
    repository: Path, tmp_path: Path
) -> None:
    fetch = noveltybench.fetch_answers
    place = repository / COMMIT / "sample_data" / "gpt-4o.jsonl"
    records = answer_records("gpt-4o")
    records[0]["generations"][0] += "!"
    write_jsonl(place, records)
    assert "not the file that was recorded" in refusal(fetch, tmp_path / "answers")
    assert not (tmp_path / "answers" / "gpt-4o.jsonl").exists()
    place.write_bytes(b"\xff\xfe")
    assert "could not be fetched" in refusal(fetch, tmp_path / "answers")
    place.unlink()
    assert "404" in refusal(fetch, tmp_path / "answers")
    assert "network" in refusal(fetch, tmp_path / "answers", "http://127.0.0.1:1")
    assert (tmp_path / "answers" / "humans.jsonl").is_file()  # what came before stays
