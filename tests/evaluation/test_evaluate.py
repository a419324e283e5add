"""Evaluation: which prompts and adapters, what is sampled and scored, and going on after a kill."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import ARMS, LENIENT, contents, same, samples_of

from ddpo_utils import CourseError, get_profile, load_policy, load_stories
from ddpo_utils.corpus.stories import development_prompts, load_prompts
from ddpo_utils.evaluation import scores
from ddpo_utils.evaluation.evaluate import (
    adapters_of,
    evaluate,
    evaluate_adapters,
    evaluation_prompts,
    find_adapters,
)
from ddpo_utils.models.sampling import read_samples
from ddpo_utils.models.scoring import mean_logps, token_kl
from ddpo_utils.settings import data_dir
from ddpo_utils.storage.files import write_json

pytest_plugins = ["evaluation_fixtures"]


def test_a_smaller_draw_of_test_prompts_is_a_part_of_a_larger_one(profile, stories):
    def drawn(stories=stories, **changes):
        return evaluation_prompts(replace(profile, **changes), stories)["prompt_id"].tolist()

    whole = drawn(sample_prompts=99)
    assert set(whole) == set(stories["prompt_id"][stories["split"] == "test"]) and len(whole) == 6
    assert drawn(sample_prompts=2) == whole[:2] and drawn() == whole[:5] != drawn(seed=1)
    assert drawn(stories.sample(frac=1, random_state=0)) == whole[:5]
    # of the bundled data the test prompts with stories, then those without
    bundled = load_stories()
    prompts = evaluation_prompts(get_profile("laptop", sample_prompts=60), bundled)["prompt_id"]
    test = bundled[bundled["split"] == "test"]["prompt_id"].drop_duplicates().tolist()
    assert len(test) == 6 and prompts.tolist() == test + load_prompts()["prompt_id"].tolist()


@pytest.mark.parametrize("leak", ["text in capitals", "id", "development"])
def test_a_prompt_that_was_trained_on_is_refused_by_its_id(profile, stories, leak):
    stories = stories.copy()
    drawn = evaluation_prompts(profile, stories).iloc[3]
    row, named = stories.index[stories["split"] == "train"][5], drawn["prompt_id"]
    if leak == "development":
        stories, profile, named = load_stories(), get_profile("laptop"), development_prompts()[0]
        stories.loc[stories["prompt_id"].eq(named).idxmax(), "split"] = "test"
    elif leak == "id":
        stories.loc[row, "prompt_id"] = named
    else:
        stories.loc[row, "prompt"] = f"  {drawn['prompt'].upper()} !"
    with pytest.raises(CourseError, match=repr(named)):
        evaluation_prompts(profile, stories)


def test_too_few_prompts_samples_or_adapters_are_refused(profile, stories, adapters, tmp_path):
    models = find_adapters(adapters)
    for changes, given in (
        ({"sample_prompts": 1}, models),
        ({"samples": 1}, models),
        ({}, find_adapters(tmp_path)),  # no adapter at all
    ):
        with pytest.raises(CourseError):
            evaluate(replace(profile, **changes), given, tmp_path / "out", stories, LENIENT)
    with pytest.raises(CourseError, match="nowhere"):
        evaluate(profile, models, tmp_path / "out", stories, LENIENT, tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def test_arms_are_rows_where_they_were_trained(adapters, tmp_path):
    always, found = ["start", *ARMS[:-1], "ddpo-sty", "ddpo"], find_adapters(adapters)
    assert list(found) == always
    assert found["start"] is None and found["ddpo"] == adapters / "ddpo"
    more = ["divpo", "divpo-sem", "orpo", "dorpo-sty", "dorpo"]
    for arm in (*more, "shuffled-sem"):
        (tmp_path / arm).mkdir()
    assert list(find_adapters(tmp_path)) == [*always[:4], "shuffled-sem", *always[4:], *more]


@pytest.mark.parametrize(
    ("ddpo", "kept", "expected"),
    [
        (5.0, (10, 20, 30), 20),
        (30.0, (10, 20, 30), None),
        (0.5, (10, 30), 10),
        (None, (10,), None),
    ],
)
def test_dpo_at_matched_kl_is_the_kept_checkpoint_nearest_to_ddpo(tmp_path, ddpo, kept, expected):
    write_json(tmp_path / "dpo" / "run.json", {"kl": {"10": 1.0, "20": 4.0, "30": 9.0}})
    if ddpo:
        write_json(tmp_path / "ddpo" / "run.json", {"kl": {"9": 4.0, "30": ddpo}})
    place = tmp_path / "dpo" / "checkpoints"
    for step in kept:
        write_json(place / f"checkpoint-{step}" / "adapter_config.json", {})
    found = find_adapters(tmp_path).get("dpo-matched")
    assert found == (expected and place / f"checkpoint-{expected}")


def test_adapters_are_the_profiles_own_else_the_recorded_ones_of_its_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    laptop, big = get_profile("laptop"), get_profile("8b")
    assert adapters_of(laptop) == data_dir() / "adapters"
    with pytest.raises(CourseError, match=r"Llama-3\.1-8B"):
        adapters_of(big)
    for profile in (laptop, big):
        own = tmp_path / "build" / profile.name / "adapters"
        write_json(own / "sft" / "run.json", {})
        assert adapters_of(profile) == own


def test_log_probs_and_kl_are_those_of_the_sft_adapter(run, profile, adapters, stories):
    results, folder = run
    by_prompt = results["by_prompt"]["ddpo"]
    frame = read_samples(samples_of(folder, "ddpo"))
    assert (frame["prompt"].str.len().diff().dropna() <= 0).all()  # longest first
    model, tokenizer = load_policy(profile, adapters / "sft")
    train = stories[stories["split"] == "train"].sample(60, random_state=42)  # four times 15
    low, high = LENIENT.logprob_range(mean_logps(model, tokenizer, train))
    logp = mean_logps(model, tokenizer, frame)
    outside = pd.Series((logp < low) | (logp > high)).groupby(frame["prompt_id"]).mean()
    assert by_prompt["implausible"] == pytest.approx(outside.tolist(), abs=1e-4)
    assert results["plausible"] == pytest.approx([low, high], abs=2e-4) and outside.mean() > 0
    model, _ = load_policy(profile, adapters / "ddpo")
    model.load_adapter(str(adapters / "sft"), adapter_name="ref")
    once = frame[frame["sample"] == 0]
    kl = pd.Series(token_kl(model, tokenizer, once), index=once["prompt_id"]).sort_index()
    assert by_prompt["kl"] == pytest.approx(kl.tolist(), abs=1e-3) and kl.min() > 0
    assert "kl" not in results["by_prompt"]["sft"] and "kl" not in results["by_prompt"]["gold"]


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_files(
    run, profile, adapters, stories, tmp_path, monkeypatch
):
    from transformers import LlamaForCausalLM

    generate, batches = LlamaForCausalLM.generate, []

    def failing(self: Any, **inputs: Any) -> Any:
        batches.append(1)
        if len(batches) == 10:
            raise KeyboardInterrupt
        return generate(self, **inputs)

    monkeypatch.setattr(LlamaForCausalLM, "generate", failing)  # 24 batches in six rows
    models = find_adapters(adapters)
    with pytest.raises(KeyboardInterrupt):
        evaluate(profile, models, tmp_path, stories, LENIENT)
    assert not (tmp_path / "results.json").exists()
    assert same(evaluate(profile, models, tmp_path, stories, LENIENT), run[0])
    assert contents(tmp_path) == contents(run[1]) and len(batches) == 25  # one of them twice


def test_no_story_is_scored_twice(run, copy, profile, adapters, stories, monkeypatch):
    models = find_adapters(adapters)
    (train,) = copy.glob("train-*.logp.json")
    write_json(train, json.loads(train.read_text())[:32], indent=None)  # killed after one piece
    asked = []

    def counted(model: Any, tokenizer: Any, part: pd.DataFrame) -> np.ndarray:
        asked.append(len(part))
        return mean_logps(model, tokenizer, part)

    monkeypatch.setattr(scores, "mean_logps", counted)
    assert same(evaluate(profile, models, copy, stories, LENIENT), run[0])
    assert contents(copy) == contents(run[1]) and asked == [28]
    # a finished evaluation needs no model
    monkeypatch.setattr(scores, "load_policy", lambda *_: pytest.fail("loaded"))
    assert same(evaluate(profile, models, copy, stories, LENIENT), run[0])


def test_another_adapter_starts_another_file_and_the_old_one_stays(
    copy, profile, adapters, stories, tmp_path
):
    before, again = contents(copy), Path(shutil.copytree(adapters, tmp_path / "again"))
    name = "adapter_model.safetensors"
    shutil.copy(again / "dpo" / name, again / "ddpo" / name)
    models = {row: again / row for row in ("sft", "dpo", "ddpo")}
    results = evaluate(profile, models, copy, stories, LENIENT)
    now = contents(copy)
    assert before.items() <= now.items()
    new = {name.partition("-")[0] for name in now if name not in before}
    assert len(now) == len(before) + 3 and new == {"ddpo"}  # samples, logp, kl
    # the same adapter, the same samples
    assert results["rows"]["dpo"]["means"] == results["rows"]["ddpo"]["means"]
    gap = results["differences"]["ddpo - dpo"]["semantic"]
    assert gap == {"mean": 0, "low": 0, "high": 0, "n": 5}


def test_a_folder_keeps_its_number_type(run, profile, adapters, stories, tmp_path, monkeypatch):
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(scores, "number_type", lambda profile, dtype=dtype: dtype)
        auto, models = replace(profile, dtype="auto"), {"sft": adapters / "sft"}
        results.append(evaluate(auto, models, tmp_path, stories, LENIENT))
    assert same(*results) and results[0]["settings"]["dtype"] == "float32"
    assert samples_of(tmp_path, "sft").name == samples_of(run[1], "sft").name


def test_the_command_prints_the_table_and_fills_the_model_cards(
    run, profile, adapters, copy, monkeypatch, tmp_path, capsys
):
    from ddpo_utils.training.run_folder import run_facts

    trained = Path(shutil.copytree(adapters, tmp_path / "trained"))
    monkeypatch.chdir(tmp_path)
    record = run_facts(profile, arm="ddpo", pairs=9, log=[], seconds=1.0, processes=1)
    write_json(trained / "ddpo" / "run.json", record)
    (trained / "ddpo" / "README.md").write_text("before")
    (trained / "dpo" / "README.md").write_text("another card")
    results = evaluate_adapters(profile, LENIENT, trained, copy)
    assert results["rows"]["ddpo"] == run[0]["rows"]["ddpo"]
    assert capsys.readouterr().out.count("DDPO-both") >= 5
    assert "| DDPO-both |" in (trained / "ddpo" / "README.md").read_text()
    assert (trained / "dpo" / "README.md").read_text() == "another card"
    record["settings"]["data"] = "mine.csv"
    write_json(trained / "ddpo" / "run.json", record)
    with pytest.warns(UserWarning, match="mine.csv"):
        evaluate_adapters(profile, LENIENT, trained, copy)
