"""Blind comparisons: dealt evenly, tied to their key, and made from two files of samples."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from study import BUILT, KEY, ONE, SYSTEMS, TWO, build, stories

from ddpo_utils.cli import main
from ddpo_utils.human_eval.comparisons import (
    build_comparisons,
    compare,
    read_comparisons,
    read_key,
)
from ddpo_utils.settings import data_dir


def test_the_key_names_every_story_and_the_comparisons_name_no_system() -> None:
    comparisons, key = build_comparisons(stories(ONE, each=5), stories(TWO, each=5), SYSTEMS)
    assert [item["item"] for item in comparisons.items] == list(key["items"])
    assert list(key["items"]) == [f"c0{n}" for n in range(1, 7)]
    assert {entry["prompt_id"] for entry in key["items"].values()} == {f"p{p}" for p in range(6)}
    for item in comparisons.items:
        assert set(item) == {"item", "prompt", "A", "B"}
        entry = key["items"][item["item"]]
        assert {entry["A"], entry["B"]} == set(SYSTEMS)
        for side in "AB":
            prompt = entry["prompt_id"][1:]
            texts = [f"{entry[side]} {prompt} {k}" for k in entry["samples"][side]]
            assert item[side] == texts
            assert len(set(texts)) == 4


def test_sides_are_dealt_evenly_and_the_seed_repeats_them() -> None:
    a, b = stories(ONE, 41), stories(TWO, 41)
    dealt = set()
    for seed in range(6):
        key = build_comparisons(a, b, SYSTEMS, seed=seed)[1]
        sides = tuple(entry["A"] == ONE for entry in key["items"].values())
        assert sum(sides) in (20, 21)
        dealt.add(sides)
    assert len(dealt) == 6
    assert build() == (BUILT, KEY)
    summaries = stories(TWO).assign(summarised=True)
    few, key = build_comparisons(stories(ONE), summaries, SYSTEMS, 2, prompts=3)
    assert len(few.items) == len(key["items"]) == 3
    assert few.allowed("best") == ["A1", "A2", "B1", "B2", "undecided"]
    assert (few.shown, BUILT.shown) == ("summaries", "whole")


def test_the_command_makes_page_comparisons_and_key(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = (stories(name).assign(source=name) for name in SYSTEMS)
    one.to_json("one.jsonl", orient="records", lines=True)
    pd.concat([two, one]).to_json("both.jsonl", orient="records", lines=True)
    given = ["compare", "one.jsonl", "both.jsonl:two", "--names", "ddpo", "dpo"]
    given += ["--prompts", "2", "--per-side", "3", "--output", "made"]
    assert main(given) == 0
    made = {path.relative_to("made").as_posix() for path in Path("made").rglob("*")}
    page, file = "for_raters/comparisons.html", "for_raters/comparisons.json"
    assert made == {"key.json", "ratings", "for_raters", page, file}
    comparisons = read_comparisons(f"made/{file}")
    assert [len(item["A"]) for item in comparisons.items] == [3, 3]
    key = read_key("made/key.json", comparisons)
    assert key["systems"] == ["ddpo", "dpo"]
    for item in comparisons.items:
        for side in "AB":
            system = {"ddpo": ONE, "dpo": TWO}[key["items"][item["item"]][side]]
            assert all(text.startswith(system) for text in item[side])
    assert main(given) == 0  # the same again
    assert main([*given, "--seed", "1"]) == 1
    assert "comparisons.json" in capsys.readouterr().err


def test_the_recorded_samples_get_their_prompts_from_the_course(tmp_path: Path) -> None:
    recorded = data_dir() / "results" / "samples.jsonl"
    compare([f"{recorded}:ddpo-28", f"{recorded}:dpo-28"], ("ddpo", "dpo"), tmp_path)
    items = read_comparisons(tmp_path / "for_raters" / "comparisons.json").items
    assert len(items) == 10
    assert all(item["prompt"] for item in items)
