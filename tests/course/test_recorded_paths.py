"""Records with paths, as the notebooks read them: the second round and the tiny stories."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ddpo_utils.course import recorded

MEASURES = ("typical", "semantic, judge", "style, judge")


def row(arm: str, step: int, kl: float | None, quality: float, diversity: float) -> dict[str, Any]:
    values = {"typical": quality, "semantic, judge": diversity, "style, judge": diversity / 2}
    prompts = {name: [values[name] - 0.5, values[name] + 0.5, None] for name in MEASURES}
    return {"arm": arm, "step": step, "kl": kl, "prompts": prompts}


def write(folder: Path, plan: str, seeds: list[int], record: dict[str, Any]) -> None:
    tier = {"dpo": {}, "ddpo": {}, "shuffled": {}}
    (folder / f"{plan}.json").write_text(json.dumps({"seeds": seeds, "first_tier": tier}))
    place = folder / "results" / plan
    place.mkdir(parents=True)
    for seed in seeds[:-1]:  # the last one is not made yet
        (place / f"{seed}.json").write_text(json.dumps(record))


def test_tiny_stories_have_points_at_equal_kl_quality_and_diversity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row("start", 0, None, 1.0, 9.0), row("dpo", 4, 1.0, 2.0, 8.0)]
    rows += [row("dpo", 8, 3.0, 4.0, 6.0), row("ddpo", 4, 0.5, 2.0, 8.5)]
    rows += [row("ddpo", 8, 1.2, 3.0, 7.0), row("shuffled", 8, 1.0, 2.5, 7.5)]
    write(tmp_path, "tiny_stories", [1, 2, 3, 4], {"rows": rows})
    beta = [row("dpo-beta", 4, 0.5, 2.0, 8.0), row("dpo-beta", 8, 1.0, 4.0, 4.0)]
    of_second = {"rows": [*rows, *beta]}  # an arm of the second tier, in one seed alone
    (tmp_path / "results" / "tiny_stories" / "2.json").write_text(json.dumps(of_second))
    unfinished = tmp_path / "results" / "tiny_stories" / "3.json"
    unfinished.write_text(json.dumps({"rows": rows[:-1]}))
    monkeypatch.setattr(recorded, "data_dir", lambda: tmp_path)
    ends, paths = recorded.load_tiny_stories()
    assert set(ends["seed"]) == {1, 2} and not ends.duplicated(["seed", "arm"]).any()
    of_first = ends[ends["seed"] == 1].set_index("arm")
    assert of_first["typical"]["dpo-matched"] == 2.0  # KL 1.0 is nearest to 1.2
    assert of_first["semantic, judge"]["dpo at ddpo's quality"] == pytest.approx(7.0)
    assert of_first["typical"]["dpo at ddpo's semantic, judge"] == pytest.approx(3.0)
    assert of_first["semantic, judge"]["shuffled at ddpo's quality"] == 7.5  # never there: its end
    assert "dpo-beta at ddpo's quality" not in of_first.index
    of_second = ends[ends["seed"] == 2].set_index("arm")
    assert of_second["semantic, judge"]["dpo-beta at ddpo's quality"] == pytest.approx(6.0)
    assert sorted(paths["arm"].unique()) == ["ddpo", "dpo", "dpo-beta"]


def test_the_second_round_has_the_worlds_that_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(arm: str, steps: int, quality: float, total: float) -> dict[str, Any]:
        facts = {"arm": arm, "steps": steps, "kl": 1.0, "rho": 0.0, "valid": 0.9}
        return facts | {"quality of the valid": quality, "total": total}

    arms = ("sft", "start", "dpo", "ddpo", "shuffled", "orpo", "dorpo")
    ends = [end(arm, 8, place, 9.0 - place) for place, arm in enumerate(arms)]
    record = {"rows": ends, "paths": [end("dpo", 4, 1.0, 8.0)]}
    write(tmp_path, "second_round", [12, 13], record)
    monkeypatch.setattr(recorded, "data_dir", lambda: tmp_path)
    found, paths = recorded.load_second_round()
    assert set(found["seed"]) == {12} and len(paths) == 1
    points = {"dpo at ddpo's quality", "shuffled at ddpo's total", "orpo at dorpo's quality"}
    assert points <= set(found["arm"])


def test_claims_and_contrasts_are_told_in_words() -> None:
    rows = []
    for seed, gap in enumerate((0.5, 0.6, 0.7, 0.8)):
        point = {"arm": "dpo at ddpo's quality", "total": 0.1, "reached": seed > 0}
        other = {**point, "arm": "shuffled at ddpo's quality"}  # in no test of the plan
        for row in ({"arm": "ddpo", "total": gap}, {"arm": "dpo", "total": 0.0}, point, other):
            rows.append({"seed": seed, "rho": 0.0, **row})
    results = pd.DataFrame(rows)
    tests = [{"measure": "total", "arms": ["ddpo", "dpo at ddpo's quality"], "test": "above"}]
    plan = {"margin": 0.1, "claims": [{"claim": "b", "says": "More total.", "tests": tests}]}
    text = recorded.claims_text(results, plan, {"total": "entropy", "quality": "score"})
    assert text.splitlines()[0] == "(b) More entropy."
    assert re.search(
        r"entropy +DDPO - DPO at DDPO's score +0\.550 \[.*\] +above 0 +holds finds 0\.\d", text
    )
    assert "-> reproduced" in text and text.count("reached in") == 1
    assert re.search(r"DPO at DDPO's score +reached in 3 of 4$", text)
    table = recorded.contrast_table(results, ["total"], [("ddpo", "dpo")])
    assert table.loc["DDPO - DPO", "total"].startswith("0.650 [")
