"""What is refused, by a CourseError that names the offending item."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from study import BUILT, ITEMS, KEY, ONE, SYSTEMS, TWO, build, rate, stories, write_model

from ddpo_utils.human_eval.comparisons import (
    build_comparisons,
    compare,
    read_comparisons,
    read_key,
    write_comparisons,
)
from ddpo_utils.human_eval.judge import consistency, judge, judge_file
from ddpo_utils.human_eval.ratings import Ratings, read_labels, read_ratings, read_study
from ddpo_utils.human_eval.summaries import summarise
from ddpo_utils.human_eval.win_rates import show_ratings, win_rates
from ddpo_utils.models.endpoint import Endpoint
from ddpo_utils.settings import CourseError

OTHER, OTHER_KEY = build(seed=2)
MODEL, OTHER_MODEL = (Endpoint(name, "http://127.0.0.1:9/v1") for name in ("m", "o"))
ANSWER = {"item": "c01", "diverse": "A", "best": "A1"}
ONE_SIDED = {"prompt_id": "p", "A": ONE, "B": ONE}
RATINGS = {"comparisons": BUILT.id, "rater": "ann", "kind": "person", "answers": [ANSWER]}
FILES = {
    "ratings": (RATINGS, lambda path: read_ratings(path, BUILT)),
    "key": (KEY, lambda path: read_key(path, BUILT)),
    "comparisons": (asdict(BUILT), read_comparisons),
}


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_broken_or_lacks_a_field_is_named(file: str, tmp_path: Path) -> None:
    right, read = FILES[file]
    text = json.dumps(right)
    faults = ["", text[:-1], text + text, "null", "3", "[" * 99_999]
    faults += [json.dumps({**right, name: [None]}) for name in right]
    path = tmp_path / f"{file}.json"
    for fault in faults:
        path.write_text(fault)
        with pytest.raises(CourseError, match=path.name):
            read(path)
            pytest.fail(f"{fault[:99]} was read.")


def pair(b: Any = None, names: Any = SYSTEMS, **settings: Any) -> Any:
    return build_comparisons(stories(ONE), stories(TWO) if b is None else b, names, **settings)


def lines(name: str, *rows: Any) -> str:
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return name


def ratings(**changes: Any) -> Any:
    return read_ratings(lines("a.json", RATINGS | changes), BUILT)


def samples(name: str, **columns: Any) -> str:
    rows = stories(TWO).assign(**columns).to_dict("records")
    return lines(name, *rows)


def answered(**change: Any) -> Any:
    return ratings(answers=[ANSWER | change])


def ann() -> Path:
    return rate(Path("ratings"), "ann", [ONE] * 6)


def model(*answers: tuple[str, ...]) -> Path:
    return write_model(Path("m.json"), list(answers))


def key_file(comparisons: Any = BUILT, key: Any = KEY) -> Path:
    return write_comparisons(".", comparisons, key).parents[1] / "key.json"


def keyed(**changes: Any) -> Any:
    path = key_file()
    path.write_text(json.dumps(KEY | changes))
    return read_key(path, BUILT)


def written(comparisons: Any, key: Any, gone: bool = False) -> None:
    """Comparisons written over others; the key that is there stays."""
    path = write_comparisons(".", BUILT, KEY)
    if gone:
        path.unlink()
    try:
        write_comparisons(".", comparisons, key)
    finally:
        assert read_key("key.json", BUILT) == KEY


def changed_text() -> Any:
    path = write_comparisons(".", BUILT, KEY)
    path.write_text(path.read_text().replace("one 3", "won 3", 1))
    return read_comparisons(path)


def both_by_ann() -> Path:
    path = rate(Path("ratings"), "Ann", [ONE])
    full_width = path.read_text().replace("Ann", "\uff21nn ")
    path.with_name("ann-1.json").write_text(full_width)
    return path.parent


def people_and_models() -> Path:
    write_model(ann().with_name("m.json"), [("c01", "A", "A1")])
    return Path("ratings")


def compare_with(second: str) -> None:
    compare([samples("one.jsonl", source="x"), second], SYSTEMS, "made")


def second_judge() -> None:
    with FileLock("m.json.lock"):
        judge(BUILT, "m.json", MODEL)


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    # building
    "equal names": (lambda: pair(names=("x", "x ")), "['x', 'x ']"),
    "a name that moves the cursor": (lambda: pair(names=("x\x1b[A", "y")), r"x\x1b[A"),
    "a number as name": (lambda: pair(names=(3, "y")), "3"),
    "half a story": (lambda: pair(per_side=0.5), "per_side"),
    "yes as a number": (lambda: pair(prompts=True), "prompts"),
    "no text": (lambda: pair(stories(TWO).assign(text=None)), "Story 1"),
    "no frame": (lambda: pair([1]), "prompt_id"),
    "a sample without number": (lambda: pair(stories(TWO).assign(sample="x")), "sample"),
    "two prompts as one": (lambda: pair(stories(TWO).replace("Prompt 3.", "O.")), "p3"),
    "a negative seed": (lambda: pair(seed=-1), "-1"),
    "no prompt in common": (lambda: pair(stories(TWO).assign(prompt_id="q")), "prompt"),
    "too few stories": (lambda: pair(stories(TWO).drop(index=8)), "p2"),
    # files of samples
    "no such file": (lambda: compare_with("three.jsonl:x"), "three.jsonl"),
    "no samples": (lambda: compare_with(lines("list.jsonl", {"a": 1})), "list.jsonl"),
    "the same stories": (lambda: compare_with(samples("one.jsonl", source="x")), "one.jsonl"),
    "no such source": (lambda: compare_with(samples("b.jsonl", source="y") + ":w"), "y"),
    "two sources": (lambda: compare_with(samples("b.jsonl", source=["y", "z"] * 12)), "y, z"),
    "two runs": (lambda: compare_with(samples("b.jsonl", sample=0)), "b.jsonl"),
    # files of the study
    "the key as comparisons": (lambda: read_comparisons(key_file()), "key.json"),
    "changed texts": (changed_text, "comparisons.json"),
    "the key of others": (lambda: read_key(key_file(OTHER, OTHER_KEY), BUILT), "key.json"),
    "three systems": (lambda: keyed(systems=["one", "two", "x"]), "systems"),
    "a system that moves the cursor": (lambda: keyed(systems=["one", "\x1b"]), r"\x1b"),
    "one system twice": (lambda: keyed(items=dict.fromkeys(ITEMS, ONE_SIDED)), "key.json"),
    "a key without an item": (lambda: keyed(items={"c01": KEY["items"]["c01"]}), "key.json"),
    "other comparisons there": (lambda: written(OTHER, OTHER_KEY), "comparisons.json"),
    "another key there": (lambda: written(BUILT, KEY | {"seed": 2}), "key.json"),
    "a key alone": (lambda: written(OTHER, OTHER_KEY, gone=True), "key.json"),
    # ratings
    "an unseen rater": (lambda: ratings(rater="\u200b"), "a.json"),
    "negative seconds": (lambda: answered(seconds=-1), "seconds"),
    "endless seconds": (lambda: answered(seconds=float("inf")), "seconds"),
    "an unknown item": (lambda: answered(item="c99"), "c99"),
    "an unknown answer": (lambda: answered(best="A5"), "A5"),
    "a person's unreadable": (lambda: answered(best="unreadable"), "best"),
    "an item twice": (lambda: ratings(answers=[ANSWER, ANSWER]), "a.json"),
    "another study's": (lambda: ratings(comparisons=OTHER.id), "a.json"),
    "a name without letters": (lambda: Ratings(".", BUILT, " . "), " . "),
    "a number as rater": (lambda: Ratings(".", BUILT, 7), "7"),
    "a long name": (lambda: Ratings(".", BUILT, "x" * 61), "60"),
    "no text as comment": (lambda: Ratings(".", BUILT, "ann").save("c01", "A", "A1", 3), "comment"),
    "a model's file": (lambda: Ratings(model().parent, BUILT, "m"), "m.json"),
    # labels
    "no labels": (lambda: read_labels(".", BUILT, KEY), "labels"),
    "labels with another key": (lambda: read_labels(ann(), BUILT, OTHER_KEY), "key"),
    "people and models": (lambda: read_labels(people_and_models(), BUILT, KEY), "mixed"),
    "two files of a rater": (lambda: read_labels(both_by_ann(), BUILT, KEY), "ann"),
    "one order": (lambda: read_labels(model(("c02", "A", "A1", "BA")), BUILT, KEY), "c02"),
    "an unknown system": (lambda: win_rates(read_labels(ann(), BUILT, KEY), "best", "xy"), "one"),
    "a folder without a study": (lambda: read_study("."), "comparisons.json"),
    "a study without ratings": (lambda: show_ratings(key_file().parent), "ratings"),
    # judges
    "a second judge": (second_judge, "m.json"),
    "a judge's ending": (lambda: judge(BUILT, "m.jsonl", MODEL), "m.jsonl"),
    "a person's file": (lambda: judge(BUILT, ann(), MODEL), "ann"),
    "another judge's file": (lambda: judge(BUILT, model().rename("n.json"), OTHER_MODEL), "m"),
    "a judge of the key": (lambda: judge_file(key_file(), None, MODEL), "key.json"),
    "one order of a judge": (lambda: consistency({"answers": [ANSWER]}), "both orders"),
    # summaries
    "no texts": (lambda: summarise(stories(ONE).drop(columns="text"), "s", MODEL), "text"),
    "summaries": (lambda: summarise(stories(ONE).assign(summarised=0), "s", MODEL), "once"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_serve_is_refused_and_named(fault: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    call, named = FAULTS[fault]
    with pytest.raises(CourseError, match=re.escape(named)):
        call()
    assert not Path("made").exists()
