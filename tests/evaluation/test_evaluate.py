"""Evaluation: which prompts, what is sampled and scored, and going on after a kill."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import ARMS, contents, same, samples_of

from ddpo_utils import CourseError, get_profile, load_policy, load_stories
from ddpo_utils.corpus.stories import decisions, development_prompts, load_prompts
from ddpo_utils.evaluation.evaluate import (
    adapters_of,
    evaluate,
    evaluate_adapters,
    evaluation_prompts,
    find_adapters,
)
from ddpo_utils.models.sampling import DECODING, read_samples
from ddpo_utils.models.scoring import mean_logps, token_kl
from ddpo_utils.settings import data_dir
from ddpo_utils.training.runs import write_json

pytest_plugins = ["evaluation_fixtures"]


# -- prompts -----------------------------------------------------------------------------------------------------


def test_prompts_are_drawn_from_the_test_split_alone_and_a_smaller_draw_is_a_part(profile, stories):
    test = set(stories["prompt_id"][stories["split"] == "test"])
    assert len(test) == 6
    draws = {
        n: evaluation_prompts(replace(profile, sample_prompts=n), stories)["prompt_id"].tolist()
        for n in (2, 5, 99)
    }
    assert draws[2] == draws[5][:2] and draws[5] == draws[99][:5] and set(draws[99]) == test
    assert draws[5] != evaluation_prompts(replace(profile, seed=1), stories)["prompt_id"].tolist()
    shuffled = stories.sample(frac=1, random_state=0)
    assert draws[5] == evaluation_prompts(profile, shuffled)["prompt_id"].tolist()


def test_bundled_prompts_are_the_test_prompts_with_stories_then_those_without():
    stories = load_stories()
    prompts = evaluation_prompts(get_profile("laptop", sample_prompts=60), stories)
    test = stories[stories["split"] == "test"]["prompt_id"].drop_duplicates().tolist()
    assert (
        len(test) == 6
        and prompts["prompt_id"].tolist() == test + load_prompts()["prompt_id"].tolist()
    )
    assert not set(prompts["prompt_id"]) & {
        *development_prompts(),
        *stories["prompt_id"][stories["split"] == "train"],
    }
    assert evaluation_prompts(get_profile("laptop"), stories)["prompt_id"].tolist() == test


@pytest.mark.parametrize(
    "leak", ["its text", "its text, printed otherwise", "its id", "a development prompt"]
)
def test_a_prompt_that_was_trained_on_is_refused(profile, stories, leak):
    stories = stories.copy()
    drawn = evaluation_prompts(profile, stories).iloc[3]
    row = stories.index[stories["split"] == "train"][5]
    if leak == "a development prompt":
        stories, profile = load_stories(), get_profile("laptop")
        stories.loc[stories["prompt_id"].eq(development_prompts()[0]).idxmax(), "split"] = "test"
    elif leak == "its id":
        stories.loc[row, "prompt_id"] = drawn["prompt_id"]
    else:
        stories.loc[row, "prompt"] = (
            f"  {drawn['prompt'].upper()} !" if "otherwise" in leak else drawn["prompt"]
        )
    with pytest.raises(CourseError, match=r"1 of the \d+ test prompts occur in the training part"):
        evaluation_prompts(profile, stories)


def test_too_few_prompts_samples_or_adapters_are_refused(profile, stories, adapters, tmp_path):
    with pytest.raises(CourseError, match="two test prompts at least, and there are 0"):
        evaluation_prompts(profile, stories[stories["split"] == "train"])
    with pytest.raises(CourseError, match="there are 1"):
        evaluation_prompts(replace(profile, sample_prompts=1), stories)
    with pytest.raises(CourseError, match="two samples a prompt"):
        evaluate(replace(profile, samples=1), find_adapters(adapters), tmp_path, stories)
    with pytest.raises(CourseError, match="no adapter to evaluate"):
        evaluate(profile, find_adapters(tmp_path), tmp_path, stories)


# -- samples, scores, and going on ---------------------------------------------------------------------------------


def test_each_row_is_sampled_with_the_paper_s_settings_longest_prompt_first(run, profile, stories):
    results, folder = run
    assert results["decoding"] == DECODING and results["samples"] == 3 and results["prompts"] == 5
    prompts = evaluation_prompts(profile, stories)
    for row in ("start", *ARMS):
        frame = read_samples(samples_of(folder, row))
        assert set(frame["prompt_id"]) == set(prompts["prompt_id"]) and len(frame) == 15
        assert (frame["prompt"].str.len().diff().dropna() <= 0).all() and (
            frame["source"] == row
        ).all()
        assert results["rows"][row]["stories"] == 15
    texts = [tuple(read_samples(samples_of(folder, row))["text"]) for row in ("start", *ARMS)]
    assert len(set(texts)) == 6


def test_a_finished_evaluation_needs_no_model_and_says_the_same(
    run, copy, profile, adapters, stories, monkeypatch
):
    for name in (
        "ddpo_utils.evaluation.evaluate.load_policy",
        "ddpo_utils.evaluation.plausibility.load_policy",
    ):
        monkeypatch.setattr(name, None)
    (copy / "results.json").unlink()
    assert same(evaluate(profile, find_adapters(adapters), copy, stories), run[0])


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_files(
    run, profile, adapters, stories, tmp_path, monkeypatch
):
    """Killed while it samples (24 batches in six rows)."""
    from transformers import LlamaForCausalLM

    generate, done = LlamaForCausalLM.generate, []

    def failing(self: Any, **inputs: Any) -> Any:
        if len(done) == 10:
            done.append("killed")
            raise KeyboardInterrupt
        done.append("batch")
        return generate(self, **inputs)

    monkeypatch.setattr(LlamaForCausalLM, "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluate(profile, find_adapters(adapters), tmp_path, stories)
    assert not (tmp_path / "results.json").exists()
    assert same(evaluate(profile, find_adapters(adapters), tmp_path, stories), run[0])
    assert contents(tmp_path) == contents(run[1]) and done.count("batch") == 24


def test_scores_go_on_after_the_last_whole_line(run, copy, profile, adapters, stories, monkeypatch):
    train = next(copy.glob("train-*.logp.jsonl"))
    lines = train.read_text().splitlines(keepends=True)
    assert [len(json.loads(line)) for line in lines] == [32, 28]
    train.write_text(lines[0] + lines[1][:30])
    asked = []
    monkeypatch.setattr(
        "ddpo_utils.evaluation.plausibility.mean_logps",
        lambda m, t, part: asked.append(len(part)) or mean_logps(m, t, part),
    )
    (copy / "results.json").unlink()
    assert same(evaluate(profile, find_adapters(adapters), copy, stories), run[0])
    assert contents(copy) == contents(run[1]) and sum(asked) == sum(
        len(json.loads(line)) for line in lines[1:]
    )


def test_another_adapter_starts_another_file_and_the_old_one_stays(
    copy, profile, adapters, stories, tmp_path
):
    before, again = contents(copy), tmp_path / "again"
    shutil.copytree(adapters, again)
    shutil.copy(
        again / "dpo" / "adapter_model.safetensors", again / "ddpo" / "adapter_model.safetensors"
    )
    results = evaluate(profile, {row: again / row for row in ("sft", "dpo", "ddpo")}, copy, stories)
    now = contents(copy)
    assert (
        before.items() <= now.items() and len([n for n in now if n not in before]) == 3
    )  # samples, logp, kl of ddpo
    assert results["adapters"]["dpo"] == results["adapters"]["ddpo"] != results["adapters"]["sft"]
    assert (
        results["rows"]["dpo"]["means"] == results["rows"]["ddpo"]["means"]
    )  # the same adapter, the same samples
    assert results["differences"]["ddpo - dpo"]["semantic"] == {
        "mean": 0,
        "low": 0,
        "high": 0,
        "n": 5,
    }


def test_a_folder_keeps_its_number_type(run, profile, adapters, stories, tmp_path, monkeypatch):
    models = {"sft": adapters / "sft"}
    monkeypatch.setattr("ddpo_utils.models.policy.choose_dtype", lambda device: torch.float32)
    first = evaluate(replace(profile, dtype="auto"), models, tmp_path, stories)
    monkeypatch.setattr("ddpo_utils.models.policy.choose_dtype", lambda device: torch.bfloat16)
    assert same(evaluate(replace(profile, dtype="auto"), models, tmp_path, stories), first)
    assert (
        first["settings"]["dtype"] == "float32"
        and samples_of(tmp_path, "sft").name == samples_of(run[1], "sft").name
    )


def test_log_probs_and_kl_are_those_of_the_sft_adapter(run, profile, adapters, stories):
    results, folder = run
    frame = read_samples(samples_of(folder, "ddpo"))
    model, tokenizer = load_policy(profile, adapters / "sft")
    train = stories[stories["split"] == "train"].sample(
        60, random_state=42
    )  # four times a row's 15
    low, high = np.quantile(
        mean_logps(model, tokenizer, train), [q := decisions()["logprob_quantile"], 1 - q]
    )
    logp = mean_logps(model, tokenizer, frame)
    outside = pd.Series((logp < low) | (logp > high)).groupby(frame["prompt_id"]).mean()
    assert results["by_prompt"]["ddpo"]["implausible"] == pytest.approx(outside.tolist(), abs=1e-4)
    said = re.search(
        r"between (-\d+\.\d+) and (-\d+\.\d+) nats a token under SFT", " ".join(results["notes"])
    )
    assert [float(v) for v in said.groups()] == pytest.approx(
        [low, high], abs=2e-4
    ) and outside.mean() > 0
    model, _ = load_policy(profile, adapters / "ddpo")
    model.load_adapter(str(adapters / "sft"), adapter_name="ref")
    once = frame[frame["sample"] == 0]
    kl = pd.Series(token_kl(model, tokenizer, once), index=once["prompt_id"]).sort_index()
    assert (
        results["by_prompt"]["ddpo"]["kl"] == pytest.approx(kl.tolist(), abs=1e-3) and kl.min() > 0
    )
    assert "kl" not in results["by_prompt"]["sft"] and "kl" not in results["by_prompt"]["gold"]


def test_the_command_prints_the_table_and_fills_the_model_cards(
    run, profile, adapters, copy, monkeypatch, tmp_path, capsys
):
    from ddpo_utils.training.runs import run_facts

    trained = Path(shutil.copytree(adapters, tmp_path / "trained"))
    monkeypatch.chdir(tmp_path)
    record = run_facts(profile, arm="ddpo", pairs=9, log=[], seconds=1.0, processes=1)
    write_json(trained / "ddpo" / "run.json", record)
    (trained / "ddpo" / "README.md").write_text("before")
    (trained / "dpo" / "README.md").write_text("of somebody else")
    results = evaluate_adapters(profile, trained, copy)
    said = capsys.readouterr().out
    assert said.count("DDPO-both") >= 5 and "samples and table are in copy" in said
    card = (trained / "ddpo" / "README.md").read_text()
    assert (
        "| DDPO-both |" in card
        and "has not been evaluated" not in card
        and "these adapters" in card
    )
    assert (trained / "dpo" / "README.md").read_text() == "of somebody else"
    assert results["rows"]["ddpo"] == run[0]["rows"]["ddpo"]


def test_shuffled_weights_of_one_encoder_are_a_row_where_they_were_trained(adapters, tmp_path):
    assert list(find_adapters(adapters)) == [
        "start",
        "sft",
        "dpo",
        "shuffled",
        "ddpo-sem",
        "ddpo-sty",
        "ddpo",
    ]
    assert (
        find_adapters(adapters)["start"] is None
        and find_adapters(adapters)["ddpo"] == adapters / "ddpo"
    )
    (tmp_path / "shuffled-sem").mkdir()
    assert "shuffled-sem" in find_adapters(tmp_path) and "shuffled-sty" not in find_adapters(
        tmp_path
    )


@pytest.mark.parametrize(
    "ddpo, kept, expected",
    [
        (5.0, (10, 20, 30), 20),
        (30.0, (10, 20, 30), None),
        (0.5, (10, 30), 10),
        (5.0, (30,), None),
        (None, (10,), None),
    ],
)
def test_dpo_at_matched_kl_is_the_kept_checkpoint_nearest_to_ddpo_s_last(
    tmp_path, ddpo, kept, expected
):
    write_json(tmp_path / "dpo" / "run.json", {"kl": {"10": 1.0, "20": 4.0, "30": 9.0}})
    if ddpo:
        write_json(tmp_path / "ddpo" / "run.json", {"kl": {"9": 4.0, "30": ddpo}})
    place = tmp_path / "dpo" / "checkpoints"
    for step in kept:
        write_json(place / f"checkpoint-{step}" / "adapter_config.json", {})
    assert find_adapters(tmp_path).get("dpo-matched") == (
        expected and place / f"checkpoint-{expected}"
    )


def test_adapters_are_the_profile_s_own_else_the_recorded_ones_of_the_same_model(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    laptop, big = get_profile("laptop"), get_profile("8b")
    assert (
        adapters_of(laptop) == data_dir() / "adapters"
        and find_adapters(adapters_of(laptop))["ddpo"].is_dir()
    )
    with pytest.raises(
        CourseError, match=r"no adapter of meta-llama/Llama-3.1-8B yet: run notebook 04 first"
    ):
        adapters_of(big)
    for profile in (laptop, big):
        write_json(tmp_path / "build" / profile.name / "adapters" / "sft" / "run.json", {})
        assert adapters_of(profile) == tmp_path / "build" / profile.name / "adapters"
