"""The scripts of data/make store what they are called for, and go on where a run was broken off."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from evaluated import POOL, THRESHOLDS
from faults import refusal

import measures
import recorded_runs
import reward_trial
import rivals
import style
import worlds
from ddpo_utils.corpus.stories import decisions, load_prompts
from ddpo_utils.course import recorded
from ddpo_utils.course.recorded import load_plan, load_world
from ddpo_utils.evaluation.statistics import Interval
from ddpo_utils.evaluation.usability import rival_table
from ddpo_utils.models.prompting import request
from ddpo_utils.models.sampling import read_samples, sample_stories
from ddpo_utils.settings import CourseError, data_dir, get_profile
from ddpo_utils.small_world.claims import outcome
from ddpo_utils.storage.files import read_json
from ddpo_utils.storage.locks import locked

PROMPTS = pd.DataFrame(
    {"prompt_id": ["b", "a", "c"], "prompt": ["Sea.", "A clock 🙂 stops", "Nobody knows"]}
)
FAST = {"samples": 3, "max_new_tokens": 8, "batch_size": 4, "source": "tiny"}


def local(tiny: tuple[Any, Any], path: Path, condition: str, **changes: Any) -> pd.DataFrame:
    return rivals.sample_local(*tiny, PROMPTS, path, condition, **{**FAST, **changes})


def test_stories_of_a_local_model_under_each_condition(tiny, tmp_path) -> None:
    frame = local(tiny, tmp_path / "s.jsonl", "plain")
    expected = sample_stories(*tiny, PROMPTS, tmp_path / "e.jsonl", **FAST)
    columns = ["prompt_id", "prompt", "sample", "source", "text", "tokens", "finished"]
    pd.testing.assert_frame_equal(frame[columns], expected[columns])
    assert frame["completion_tokens"].tolist() == expected["tokens"].tolist()
    assert (frame["calls"] == 1).all()

    frame = local(tiny, tmp_path / "i.jsonl", "iterative", samples=2, max_new_tokens=20)
    second = read_samples(tmp_path / "i.round2.jsonl").set_index("prompt_id")
    for prompt_id, prompt in PROMPTS.itertuples(index=False):
        first, other = frame.loc[frame["prompt_id"] == prompt_id, "text"]
        earlier = [first] if first else []
        assert second["prompt"][prompt_id] == request(prompt, "iterative", earlier=earlier)
        assert second["text"][prompt_id] == other

    frame = local(tiny, tmp_path / "v.jsonl", "verbalised")
    assert frame["sample"].tolist() == [0, 1, 2] * 3
    assert 8 < frame["completion_tokens"].max() <= 24  # as long as its stories together
    assert frame["unreadable"].all()  # a random model keeps to no form
    assert frame["calls"].sum() == 3


def test_rivals_are_recorded_and_read_beside_the_adapters(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"hot": {"temperature": 1.5, "min_p": 0.1}, "asked": {"condition": "iterative"}}
    profile = get_profile("laptop", model=str(tiny_folder), max_new_tokens=3, sample_batch=80)
    rivals.record_rivals(profile, load_prompts().head(6), tmp_path / "work", tmp_path, 2, asked)
    for name in ("runs.json", "samples.jsonl"):
        recorded_file = (data_dir() / "results" / name).resolve(strict=True)
        (tmp_path / "results" / name).symlink_to(recorded_file)
    monkeypatch.setattr(recorded, "data_dir", lambda: tmp_path)
    facts, stories = recorded.load_rivals()
    assert facts["rivals"] == asked
    assert str(tmp_path) not in str(facts)
    assert {*asked, "start", "sft", "dpo", "ddpo"} <= set(stories["source"])
    assert stories["prompt"].notna().all()
    stories = stories[stories["source"].isin(asked)]
    table = rival_table(stories, THRESHOLDS, POOL, {"semantic": "wordllama"})
    assert table.loc["asked", "calls"] == 12


def test_a_recorded_seed_is_kept(tmp_path: Path) -> None:
    record = tmp_path / "results" / "seeds.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"seeds": {"43": {}}}))
    record.with_suffix(".jsonl").write_text(
        '{"seed": 43, "prompt_id": "p", "prompt": "Tell.", "text": "Rain."}\n'
    )
    job = recorded_runs.Job(decisions(), load_prompts(), tmp_path / "work", tmp_path)
    recorded_runs.record_seeds(job, [43])
    assert json.loads(record.read_text()) == {"seeds": {"43": {}}}
    assert not job.work.exists()


def test_a_published_adapter_is_half_as_large(adapter_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    source = shutil.copytree(adapter_folder, tmp_path / "source")
    (source / "run.json").write_text("{}")
    recorded_runs.publish(source, tmp_path / "sft")
    before = load_file(adapter_folder / "adapter_model.safetensors")
    after = load_file(tmp_path / "sft" / "adapter_model.safetensors")
    for name, tensor in before.items():
        assert after[name].dtype == torch.bfloat16
        assert torch.equal(after[name], tensor.to(torch.bfloat16))
    assert (tmp_path / "sft" / "adapter_config.json").is_file()


def test_a_recorded_world_is_kept_and_read_and_none_was_for_tuning(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "results" / "world"
    folder.mkdir(parents=True)
    for seed in (10, 9):
        rows = [{"rho": 0.0, "arm": "dpo", "total": float(seed)}]
        (folder / f"{seed}.json").write_text(json.dumps({"rows": rows}))
    worlds.record_worlds([9, 10], load_plan("claims"), tmp_path, tmp_path)  # makes nothing
    for seeds in ([], [901], [1, 902], [-1]):
        assert "901" in refusal(
            worlds.record_worlds, seeds, load_plan("claims"), tmp_path, tmp_path
        )
    monkeypatch.setattr(recorded, "data_dir", lambda: tmp_path)
    rows = load_world()[["seed", "arm", "total"]].to_numpy().tolist()
    assert rows == [[9, "dpo", 9.0], [10, "dpo", 10.0]]


def test_the_plan_of_the_worlds_can_be_run_as_it_is() -> None:
    plan = load_plan("claims")
    get_profile("laptop", **plan["settings"])
    for method, settings in plan["chosen"].items():
        assert settings in plan["candidates"][method]
        get_profile("laptop", **settings)
    assert len({len(tried) for tried in plan["candidates"].values()}) == 1  # the same budget
    assert not set(plan["seeds"]) & set(plan["tuning_seeds"])
    assert min(plan["rhos"]) < 0 < max(plan["rhos"])
    arms = {*worlds.ARMS, *plan["few"]}
    arms |= {"sft", "dpo-matched", "dpo-hot", "divpo-steps"}
    for claim in plan["claims"]:
        for test in claim["tests"]:
            assert set(test["arms"]) <= arms
            assert outcome(Interval(0, -1, 1, 2), test["test"], plan["margin"]) == "open"


def test_the_chosen_settings_follow_from_the_recorded_trials_by_the_rule() -> None:
    plan = load_plan("claims")
    rows = pd.DataFrame(read_json(data_dir() / "results" / "world_tuning.json")["rows"])
    assert set(rows["seed"]) == set(plan["tuning_seeds"])
    assert (rows["rho"] == 0).all()
    rows["candidate"] = rows["candidate"].map(json.dumps)
    groups = rows.groupby(["arm", "candidate", "temperature"])[["quality", "total"]]
    mean = groups.agg(lambda values: values.mean(skipna=False))
    for method, candidates in plan["candidates"].items():
        qualities = [mean.loc[(method, json.dumps(c), 1.0), "quality"] for c in candidates]
        assert candidates[qualities.index(max(qualities))] == plan["chosen"][method]
    dpo, ddpo = (json.dumps(plan["chosen"][method]) for method in ("dpo", "ddpo"))
    wanted = mean.loc[("ddpo", ddpo, 1.0), "total"]
    gaps = [abs(mean.loc[("dpo", dpo, t), "total"] - wanted) for t in plan["temperatures"]]
    assert plan["temperatures"][gaps.index(min(gaps))] == plan["temperature"]


RECORDS = {
    "measures": (measures, []),
    "reward": (reward_trial, []),
    "rivals": (rivals, []),
    "runs": (recorded_runs, []),
    "seeds": (recorded_runs, ["--seeds", "43"]),
    "development": (recorded_runs, ["--development"]),
    "world/1": (worlds, ["1"]),
    "world_tuning": (worlds, ["--tuning"]),
}


@pytest.mark.parametrize("record", RECORDS)
def test_of_two_at_once_the_second_is_refused(record, tmp_path, monkeypatch) -> None:
    script, flags = RECORDS[record]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script", "--smoke", "--output", str(tmp_path), *flags])
    path = tmp_path / "results" / f"{record}.json"
    with locked(path), ThreadPoolExecutor(1) as pool:
        error = pool.submit(script.main).exception()
    assert isinstance(error, CourseError) and str(path) in str(error)
    assert not path.exists()


@pytest.mark.parametrize("script", [measures, recorded_runs, rivals, style, worlds])
def test_each_script_has_help(script: Any, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, "--help"])
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert stop.value.code == 0
    assert "--smoke" in capsys.readouterr().out
