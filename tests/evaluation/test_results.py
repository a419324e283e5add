"""The evaluation's figures, recomputed one by one; quality, the verdict, and the tables."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import LENIENT, samples_of

from ddpo_utils import diversity, load_encoder
from ddpo_utils.corpus.text import first_words
from ddpo_utils.evaluation.evaluate import evaluate, evaluation_prompts, find_adapters
from ddpo_utils.evaluation.results import (
    _differences,
    _verdicts,
    show_table,
    write_results,
)
from ddpo_utils.evaluation.reward import load_reward, score_stories
from ddpo_utils.evaluation.scores import score_rewards
from ddpo_utils.evaluation.statistics import difference, mean_interval, share_difference
from ddpo_utils.evaluation.usability import FAULTS, MEASURES
from ddpo_utils.models.sampling import read_samples
from ddpo_utils.storage.files import read_json, write_json

pytest_plugins = ["evaluation_fixtures"]

ENCODERS = dict(zip(MEASURES, ("minilm", "stylometric", "wordllama", "delta"), strict=True))


def test_figures_are_means_over_prompts_of_the_encoders_diversities(run):
    results, folder = run
    frame = read_samples(samples_of(folder, "ddpo"))
    by_prompt, groups = results["by_prompt"]["ddpo"], frame["prompt_id"]
    assert (frame["source"] == "ddpo").all() and len(frame) == 15
    assert by_prompt["prompt_id"] == sorted(set(groups))
    for name, encoder in ENCODERS.items():
        cut = frame["text"].map(first_words)
        for column, texts in ((name, frame["text"]), (f"{name} (25 words)", cut)):
            rows = load_encoder(encoder).encode(texts.tolist())
            values = diversity(rows, groups.to_numpy())
            assert by_prompt[column] == pytest.approx(values.tolist(), abs=1e-4)
            got, expected = results["rows"]["ddpo"]["means"][column], mean_interval(values)
            for end in ("mean", "low", "high", "n"):
                assert got[end] == pytest.approx(getattr(expected, end), abs=1e-4)
    for name in ("usable", *FAULTS):  # shares: a few stories say no more
        got = results["rows"]["ddpo"]["means"][name]
        assert 0 <= got["low"] <= got["mean"] <= got["high"] <= 1
        assert got["high"] - got["low"] > 0.05
    assert by_prompt["tokens"] == frame.groupby(groups)["tokens"].mean().round(4).tolist()
    assert by_prompt["cut"] == (~frame["finished"]).groupby(groups).mean().round(4).tolist()


def test_gold_is_what_people_wrote_and_differences_are_paired_by_prompt(run, stories, profile):
    results, _ = run
    prompts = evaluation_prompts(profile, stories)["prompt_id"]
    gold = stories[stories["prompt_id"].isin(prompts[1:])]  # the first has a single response
    by_prompt = results["by_prompt"]["gold"]
    assert by_prompt["prompt_id"] == sorted(prompts[1:]) and not any(by_prompt["cut"])
    rows, groups = load_encoder("minilm").encode(gold["text"].tolist()), gold["prompt_id"]
    values = diversity(rows, groups.to_numpy())
    assert by_prompt["semantic"] == pytest.approx(values.tolist(), abs=1e-4)
    assert results["rows"]["gold"]["stories"] == len(gold)
    pairs = ["ddpo-sem - gold", "ddpo-sem - dpo", "ddpo - gold", "ddpo - dpo", "ddpo - shuffled"]
    assert list(results["differences"]) == pairs
    tables = {}
    for row in ("ddpo", "shuffled", "gold"):
        tables[row] = pd.DataFrame(results["by_prompt"][row]).set_index("prompt_id")
    smallest = min(3, int(gold["prompt_id"].value_counts().min()))
    for control, n, least in (("shuffled", 5, 3), ("gold", 4, smallest)):
        other = tables[control]
        for name in ("semantic", "usable"):
            values = tables["ddpo"].loc[other.index, name], other[name]
            expected = difference(*values)
            if name == "usable":
                expected = share_difference(*values, stories=least)
            got = results["differences"][f"ddpo - {control}"][name]
            assert got["n"] == n
            assert got["mean"] == pytest.approx(expected.mean, abs=2e-4)
            assert got["low"] == pytest.approx(expected.low, abs=2e-4)


def test_each_row_is_set_against_what_it_differs_from_in_one_thing():
    arms = ["gold", "dpo", "dpo-matched", "shuffled-sem", "ddpo", "ddpo-sem"]
    arms += ["divpo", "divpo-sem", "orpo", "dorpo", "dorpo-sty"]
    values = np.arange(4.0) ** 2
    tables = {arm: pd.DataFrame({"x": values + i}) for i, arm in enumerate(arms)}
    gaps = _differences(tables, dict.fromkeys(arms, 4))
    expected = {
        "ddpo": ["gold", "dpo", "dpo-matched", "divpo"],
        "ddpo-sem": ["gold", "dpo", "shuffled-sem", "divpo-sem"],
        "dorpo": ["gold", "orpo"],
        "dorpo-sty": ["gold", "orpo"],
    }
    assert list(gaps) == [f"{row} - {control}" for row in expected for control in expected[row]]
    assert gaps["dorpo-sty - orpo"]["x"]["mean"] == 2


@pytest.mark.parametrize(
    ("effect", "lost", "worse", "spread", "expected"),
    [
        (0.2, 0.0, 0.0, 1.0, "effect of deviation; at equal quality"),
        (0.2, 0.0, 0.5, 1.0, "effect of deviation; equal quality not shown"),
        (0.2, 0.0, 0.5, None, "effect of deviation; quality not measured"),
        (0.2, 0.2, 0.0, 1.0, "no effect shown"),
    ],
)
def test_the_verdict_asks_for_diversity_usable_stories_and_quality(
    effect, lost, worse, spread, expected
):
    rng, columns = np.random.default_rng(0), [*MEASURES, "usable", "reward"]
    tables = {}
    for row in ("dpo", "shuffled", "ddpo"):
        values = rng.normal(0, 0.01, (40, 6))
        tables[row] = pd.DataFrame(values, columns=columns).assign(kl=1.0)
        tables[row]["usable"] += 0.8
    stories = dict.fromkeys([*tables, "dpo-matched"], 4)
    tables["ddpo"][list(MEASURES)] += effect
    tables["ddpo"]["usable"] -= lost
    tables["ddpo"]["reward"] -= worse
    got = _verdicts(tables, stories, LENIENT, spread)
    assert got["control"] == "dpo" and list(got["measures"]) == list(MEASURES)
    assert all(text.startswith(expected) for text in got["measures"].values())
    matched = tables | {"dpo-matched": tables["ddpo"]}  # DPO at the same KL goes before its end
    control, texts = _verdicts(matched, stories, LENIENT, spread).values()
    assert control == "dpo-matched" and all(text.startswith("no effect") for text in texts.values())
    no_kl = tables["shuffled"].drop(columns="kl")
    assert _verdicts({**tables, "shuffled": no_kl}, stories, LENIENT, spread) == {}
    two = {row: tables[row] for row in ("dpo", "ddpo")}
    assert _verdicts(two, stories, LENIENT, spread) == {}


def trial_record(backbone: str) -> dict[str, Any]:
    """The record of a trial that the reward passed, on writers of whom nothing is known."""
    accuracy = {"unseen prompts": {"mean": 0.7, "low": 0.65, "high": 0.75, "n": 20}}
    accuracy["unseen prompts and writers"] = None
    target = {"low": -2.0, "high": 40.0, "times": 0}
    figures = {"regression": accuracy}
    return {"bound": 0.6, "backbone": backbone, "target": target, "accuracy": figures}


def test_a_reward_that_passed_scores_the_samples_and_gold_keeps_its_votes(
    copy, profile, tiny_folder, adapters, stories, tmp_path
):
    rewarded, models = replace(profile, reward=str(tiny_folder)), find_adapters(adapters)
    model, _ = load_reward(rewarded)
    for name, parameter in model.named_parameters():
        if "score" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "trial" / "regression" / "final")
    write_json(tmp_path / "trial" / "reward.json", trial_record(tiny_folder.name))
    results = evaluate(rewarded, models, copy, stories, LENIENT, tmp_path / "trial")
    frame = read_samples(samples_of(copy, "dpo"))
    reward = load_reward(rewarded, tmp_path / "trial" / "regression" / "final")
    scores = pd.Series(score_stories(rewarded, *reward, frame))
    expected = scores.groupby(frame["prompt_id"]).mean()
    by_prompt = results["by_prompt"]
    assert by_prompt["dpo"]["reward"] == pytest.approx(expected.tolist(), abs=1e-3)
    gold = stories[stories["prompt_id"].isin(by_prompt["gold"]["prompt_id"])]
    votes = (2 * (gold["score"] + 2) / 42 - 1).groupby(gold["prompt_id"]).mean()
    assert by_prompt["gold"]["reward"] == pytest.approx(votes.tolist(), abs=1e-4)
    assert "reward" in results["differences"]["ddpo - dpo"]
    assert "0.700 [0.650, 0.750]" in results["quality"]


@pytest.mark.parametrize("fault", ["bound", "another backbone", "unseen writers", "none"])
def test_a_reward_that_did_not_pass_is_not_used(profile, tiny_folder, tmp_path, fault):
    record = trial_record(tiny_folder.name)
    figures = record["accuracy"]["regression"]
    if fault == "bound":
        figures["unseen prompts"]["low"] = 0.59
    elif fault == "another backbone":
        record["backbone"] = "somebody/else"
    elif fault == "unseen writers":  # known writers do not count where unseen ones are known
        figures["unseen prompts and writers"] = {"mean": 0.6, "low": 0.5, "high": 0.7, "n": 9}
    write_json(tmp_path / "reward.json", record)
    rewarded, given = replace(profile, reward=str(tiny_folder)), tmp_path
    if fault == "none":
        given = None
    rewards, quality = score_rewards(rewarded, {"dpo": pd.DataFrame()}, tmp_path, given)
    assert rewards == {} and quality.startswith("quality not measured")


def test_the_printed_table_never_shows_diversity_without_failures(run, capsys):
    show_table(run[0])
    printed = capsys.readouterr().out
    assert all(note in printed for note in run[0]["notes"])
    assert "adapter: DDPO-sty." in printed  # the row that is missing
    tables = [part.splitlines() for part in printed.split("\n\n")[1:-1]]
    assert len(tables) == 5
    for title, header, *lines in tables:
        assert len({len(line) for line in (header, *lines)}) == 1, title
        assert "semantic" not in header or "usable" in header, title
    assert all(column in tables[1][1] for column in (*FAULTS, "words", "tokens", "kl"))


def test_without_gold_sft_or_controls_there_is_no_difference_and_no_verdict(
    profile, adapters, stories, tmp_path
):
    lone = stories.drop_duplicates("prompt_id")
    results = evaluate(profile, {"ddpo": adapters / "ddpo"}, tmp_path, lone, LENIENT)
    assert list(results["rows"]) == ["ddpo"] and results["differences"] == {}
    assert not any(results["by_prompt"]["ddpo"]["implausible"]) and not results["verdicts"]
    assert results["plausible"] is None and results["quality"] in results["notes"]


def test_the_files_agree_and_hold_no_path_and_nothing_that_acts(
    run, tmp_path, tmp_path_factory, capsys
):
    results, folder = run
    assert read_json(folder / "results.json") == results
    for name in ("results.json", "results.csv", "results.md"):
        assert str(tmp_path_factory.getbasetemp()) not in (folder / name).read_text()
    rows = {row["row"]: row for row in csv.DictReader((folder / "results.csv").open())}
    assert list(rows) == [*results["rows"], *results["differences"]]
    assert rows["gold"]["stories"] == "16" and rows["ddpo - dpo"]["stories"] == ""
    for end in ("low", "high"):
        assert float(rows["ddpo"][f"style {end}"]) == results["rows"]["ddpo"]["means"]["style"][end]
    assert (folder / "results.md").read_text().count("| DDPO-both |") == 4
    hostile = results | {"model": "a|b<img onerror=x>", "notes": ["<script>\x1b[2J"]}
    write_results(hostile, tmp_path)
    assert not set("<\x1b") & set((tmp_path / "results.md").read_text())
    show_table(hostile)
    assert "\x1b" not in capsys.readouterr().out
