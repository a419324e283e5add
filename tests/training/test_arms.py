"""The arms: which stories they are made of, their names and weights, and one SFT adapter for all of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from awkward_posts import small_posts
from faults import sentence
from tiny_runs import assert_same_adapter, curve, few_stories, tiny_profile

from ddpo_utils import (
    CourseError,
    Profile,
    deviation_weights,
    get_profile,
    load_encoder,
    load_stories,
    make_pairs,
)
from ddpo_utils.corpus.stories import development_prompts, load_prompts
from ddpo_utils.training.arms import (
    ARMS,
    all_stories,
    arm_name,
    arm_weights,
    of_arm,
    train_arms,
    training_stories,
)
from ddpo_utils.training.orpo import train_orpo
from ddpo_utils.training.recipes import train_pairs

STORIES = few_stories()
PAIRS = make_pairs(STORIES)


@pytest.fixture
def profile(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.chdir(tmp_path)  # build/ lies below the working directory
    return tiny_profile(tiny_folder, steps=2, batch_size=4)


@pytest.mark.parametrize(
    ("method", "weights", "name"),
    [
        ("sft", "semantic", "sft"),
        ("dpo", "style", "dpo"),
        ("ddpo", "both", "ddpo"),
        ("ddpo", "semantic", "ddpo-sem"),
        ("ddpo", "style", "ddpo-sty"),
        ("orpo", "style", "orpo"),
        ("dorpo", "both", "dorpo"),
        ("dorpo", "style", "dorpo-sty"),
        ("divpo", "both", "divpo"),
        ("divpo", "semantic", "divpo-sem"),
        ("shuffled", "both", "shuffled"),
        ("shuffled", "style", "shuffled-sty"),
    ],
)
def test_an_arm_is_named_by_what_it_does(method: str, weights: str, name: str) -> None:
    assert arm_name(method, weights) == name
    profile = get_profile("laptop", weights="style" if weights == "both" else "both")
    if name not in ("sft", "dpo", "orpo") and weights != "both":
        assert (
            of_arm(name, profile).weights == weights
        )  # the name decides, whatever the profile says
    else:
        assert of_arm(name, profile) == profile


def test_weights_by_something_else_are_refused() -> None:
    with pytest.raises(CourseError) as caught:
        arm_name("ddpo", "votes")
    assert "semantic, style or both" in sentence(caught)


def test_of_the_bundled_stories_the_authors_training_part_alone_is_trained_on() -> None:
    stories, train = load_stories(), training_stories(get_profile("laptop"))
    assert set(train["source"]) == {"authors"} and set(train["split"]) == {"train"}
    tests = set(stories.loc[stories["split"] == "test", "prompt_id"]) | set(
        load_prompts()["prompt_id"]
    )
    assert tests and development_prompts()
    assert not set(train["prompt_id"]) & (tests | set(development_prompts()))
    left = set(stories["prompt_id"]) - set(train["prompt_id"])
    assert left == (tests | set(development_prompts())) & set(
        stories["prompt_id"]
    )  # and nothing else is left out
    texts = set(stories.loc[stories["prompt_id"].isin(left), "text"])
    assert not texts & set(train["text"]) and len(train) == 12 * train["prompt_id"].nunique()


def test_of_posts_the_training_split_alone_is_trained_on(profile: Profile, tmp_path: Path) -> None:
    profile = replace(
        profile, data=str(small_posts(tmp_path / "posts.parquet", posts=20)), max_length=1024
    )
    stories = all_stories(profile)
    train = training_stories(profile)
    tests = stories[stories["split"] == "test"]
    assert len(tests) and len(train) + len(tests) == len(stories) == 120
    assert not set(train["prompt_id"]) & set(tests["prompt_id"]) and not set(train["prompt"]) & set(
        tests["prompt"]
    )
    assert train.index.equals(stories.index[stories["split"] == "train"])  # rows keep their labels


def test_stories_without_a_training_part_are_refused(profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"prompt": "Sea.", "text": "Waves.", "split": "test"}))
    with pytest.raises(CourseError, match="no story of the training split") as caught:
        training_stories(replace(profile, data=str(path)))
    sentence(caught)


def by_hand(
    stories: pd.DataFrame, pairs: pd.DataFrame, encoders: Sequence[str], floor: float = 0.0
) -> np.ndarray:
    """The winners' weights, a prompt at a time."""
    weight: dict[int, float] = {}
    for _, own in pairs.groupby("prompt_id"):
        rows = stories.loc[sorted({*own["chosen_row"], *own["rejected_row"]})]
        embeddings = [load_encoder(name).encode(rows["text"].tolist()) for name in encoders]
        weight |= dict(zip(rows.index, deviation_weights(*embeddings, floor=floor), strict=True))
    return np.array([weight[row] for row in pairs["chosen_row"]])


def test_weights_of_each_arm_are_the_winners_deviation(profile: Profile) -> None:
    arms = [
        "dpo",
        "ddpo",
        "ddpo-sem",
        "ddpo-sty",
        "shuffled",
        "shuffled-sem",
        "orpo",
        "dorpo",
        "dorpo-sty",
        "divpo-sem",
    ]
    weights = arm_weights(STORIES, PAIRS, profile, arms)
    assert list(weights) == arms and {arm for arm in arms if weights[arm] is None} == {
        "dpo",
        "orpo",
        "divpo-sem",
    }
    assert np.array_equal(weights["dorpo"], weights["ddpo"])
    assert np.array_equal(weights["dorpo-sty"], weights["ddpo-sty"])
    encoders = {
        "ddpo": ["stylometric", "delta"],
        "ddpo-sem": ["stylometric"],
        "ddpo-sty": ["delta"],
    }
    for arm, names in encoders.items():
        assert np.allclose(weights[arm], by_hand(STORIES, PAIRS, names)), arm
    assert len({tuple(weights[arm]) for arm in encoders}) == 3
    floored = arm_weights(STORIES, PAIRS, replace(profile, floor=0.2), ["ddpo"])["ddpo"]
    assert np.allclose(floored, 0.2 + 0.8 * weights["ddpo"])


@pytest.mark.parametrize("seed", [42, 43])
def test_shuffled_weights_are_a_permutation_within_each_prompt(profile: Profile, seed: int) -> None:
    weights = arm_weights(STORIES, PAIRS, replace(profile, seed=seed))
    assert list(weights) == list(ARMS)
    assert not np.array_equal(weights["shuffled"], weights["ddpo"])
    for prompt in set(PAIRS["prompt_id"]):
        own = (PAIRS["prompt_id"] == prompt).to_numpy()
        assert own.sum() > 1 and sorted(weights["shuffled"][own]) == sorted(weights["ddpo"][own])
    assert weights["shuffled"].mean() == pytest.approx(weights["ddpo"].mean())


def test_one_sft_adapter_is_shared_by_all_arms(profile: Profile, tmp_path: Path) -> None:
    shared = tmp_path / "elsewhere" / "sft"
    first = train_arms(profile, STORIES, tmp_path / "first", ["sft"], shared)
    assert list(first) == ["sft"] and not (tmp_path / "first").exists()
    made = (shared / "adapter_model.safetensors").stat().st_mtime_ns
    records = train_arms(profile, STORIES, tmp_path / "first", ["dpo", "ddpo-sem"], shared)
    assert list(records) == ["sft", "dpo", "ddpo-sem"]
    assert (shared / "adapter_model.safetensors").stat().st_mtime_ns == made
    assert records["sft"]["log"] == first["sft"]["log"]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["ddpo-sem", "dpo"]
    assert (
        len(list(shared.glob("reference-*.csv"))) == 1
        and len(list(shared.glob("watch-*.jsonl"))) == 1
    )
    assert records["ddpo-sem"]["settings"]["weights"] == "semantic" and list(
        records["dpo"]["kl"]
    ) == ["2"]
    assert records["ddpo-sem"]["log"][0]["loss"] == pytest.approx(
        records["dpo"]["log"][0]["loss"] * records["ddpo-sem"]["log"][0]["weight"], rel=1e-5
    )  # at the first step every pair's loss is log 2


def test_the_divergence_is_watched_along_training_prompts(profile: Profile, tmp_path: Path) -> None:
    profile = replace(
        profile, data=str(small_posts(tmp_path / "posts.parquet", posts=20)), max_length=1024
    )
    train = training_stories(profile)
    train_arms(profile, train, tmp_path / "arms", ["dpo"])
    watched = [
        json.loads(line)
        for line in next((tmp_path / "arms" / "sft").glob("watch-*.jsonl")).read_text().splitlines()
    ]
    assert {record["prompt"] for record in watched} <= set(train["prompt"])
    assert len(watched) == 16 and len({record["prompt"] for record in watched}) == 8


def test_with_weights_of_one_ddpo_is_dpo(profile: Profile, tmp_path: Path) -> None:
    """To the last bit: a product with 1 is exact."""
    train_arms(profile, STORIES, tmp_path, ["dpo"])
    ones = train_pairs(
        profile, PAIRS, np.ones(len(PAIRS)), tmp_path / "ones", tmp_path / "sft", "ddpo"
    )
    dpo = json.loads((tmp_path / "dpo" / "run.json").read_text(encoding="utf-8"))
    assert curve(ones) == curve(dpo) and curve(ones, "grad_norm") == curve(dpo, "grad_norm")
    assert_same_adapter(tmp_path / "ones", tmp_path / "dpo")
    other = train_pairs(
        profile, PAIRS, [0.5] * len(PAIRS), tmp_path / "half", tmp_path / "sft", "ddpo"
    )
    assert curve(other)[0] == pytest.approx(0.5 * curve(dpo)[0], rel=1e-5)


def test_what_pairs_and_weights_lack_is_said_before_sft_is_trained(
    profile: Profile, tmp_path: Path
) -> None:
    scoreless = STORIES.assign(score=STORIES["score"].where(STORIES.index != STORIES.index[3]))
    with pytest.raises(CourseError, match=f"index {STORIES.index[3]} .* has no score"):
        train_arms(profile, scoreless, tmp_path, ["dpo"])
    with pytest.raises(CourseError, match="nobody/encoder"):
        train_arms(replace(profile, semantic="nobody/encoder"), STORIES, tmp_path, ["ddpo"])
    assert not list(tmp_path.iterdir())


def test_what_is_finished_is_kept(profile: Profile, tmp_path: Path) -> None:
    first = train_arms(profile, STORIES, tmp_path, ["sft"])
    stamp = (tmp_path / "sft" / "run.json").stat().st_mtime_ns
    assert train_arms(profile, STORIES, tmp_path, [])["sft"]["log"] == first["sft"]["log"]
    assert (tmp_path / "sft" / "run.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "setting", ["max_new_tokens", pytest.param("sample_batch", marks=pytest.mark.slow)]
)
def test_a_setting_of_sampling_may_change_between_two_arms(
    profile: Profile, tmp_path: Path, setting: str
) -> None:
    train_arms(profile, STORIES, tmp_path, ["dpo"])
    train_arms(replace(profile, **{setting: 5}), STORIES, tmp_path, ["ddpo"])


def test_an_arm_of_another_sft_adapter_does_not_stand_for_this_one(
    profile: Profile, tmp_path: Path
) -> None:
    before = train_arms(profile, STORIES, tmp_path / "arms", ["dpo"], tmp_path / "one")["dpo"]
    longer = replace(profile, sft_steps=4)
    try:
        after = train_arms(longer, STORIES, tmp_path / "arms", ["dpo"], tmp_path / "two")["dpo"]
    except CourseError as fault:
        assert "sft" in str(fault).lower()  # refused, or trained anew
    else:
        assert curve(after) != curve(before)


def test_orpo_needs_no_sft_and_watches_the_divergence_where_there_is_one(
    profile: Profile, tmp_path: Path
) -> None:
    """The KL is looked at beside training: losses and adapter are the same ones."""
    alone = train_arms(profile, STORIES, tmp_path / "alone", ["orpo", "dorpo-sty"])
    assert list(alone) == ["orpo", "dorpo-sty"]
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == ["dorpo-sty", "orpo"]
    assert alone["orpo"]["kl"] == {} and alone["dorpo-sty"]["settings"]["weights"] == "style"
    beside = train_arms(profile, STORIES, tmp_path / "beside", ["sft", "dorpo-sty", "orpo"])
    assert list(beside) == ["sft", "dorpo-sty", "orpo"] and list(beside["orpo"]["kl"]) == ["2"]
    assert beside["orpo"]["kl"]["2"] > 0
    for arm in ("orpo", "dorpo-sty"):
        assert curve(beside[arm]) == curve(alone[arm]) and curve(beside[arm], "grad_norm") == curve(
            alone[arm], "grad_norm"
        )
        assert_same_adapter(tmp_path / "beside" / arm, tmp_path / "alone" / arm)
    assert curve(alone["orpo"]) != curve(alone["dorpo-sty"])
    for step in (0, 1):  # of weight 1 and of deviation
        orpo, dorpo = (alone[arm]["log"][step] for arm in ("orpo", "dorpo-sty"))
        assert orpo["loss"] == pytest.approx(
            orpo["nll_loss"] - 0.25 * orpo["log_odds_ratio"], rel=1e-5
        )
        assert orpo["weight"] == 1 != dorpo["weight"]


def test_an_sft_adapter_of_another_model_is_one_sentence(
    profile: Profile, tmp_path: Path, adapter_folder: Path
) -> None:
    from safetensors.torch import load_file, save_file

    strange = tmp_path / "strange"
    shutil.copytree(adapter_folder, strange)
    tensors = load_file(strange / "adapter_model.safetensors")
    save_file(
        {name: t.repeat(2, 2) for name, t in tensors.items()}, strange / "adapter_model.safetensors"
    )
    watch = STORIES[["prompt", "text"]].head(2)
    with pytest.raises(CourseError) as caught:
        train_orpo(profile, PAIRS, None, tmp_path / "orpo", "orpo", strange, watch)
    assert "from which the KL is watched, does not fit" in sentence(caught)


def test_with_weights_of_one_dorpo_is_orpo(profile: Profile, tmp_path: Path) -> None:
    orpo = train_orpo(profile, PAIRS, None, tmp_path / "orpo", "orpo")
    ones = train_orpo(profile, PAIRS, np.ones(len(PAIRS)), tmp_path / "ones", "dorpo")
    assert curve(ones) == curve(orpo)
    assert_same_adapter(tmp_path / "ones", tmp_path / "orpo")


def test_orpo_s_texts_end_once_at_the_end_of_turn(
    profile: Profile, tmp_path: Path, monkeypatch
) -> None:
    """The tokens of prompt and response are those by which SFT's log-probs are taken; nothing begins or ends twice."""
    from transformers import Trainer

    seen = []
    monkeypatch.setattr(
        Trainer, "train", lambda trainer, **_: seen.append(trainer) or trainer.save_state()
    )
    train_orpo(replace(profile, max_length=700), PAIRS, None, tmp_path / "orpo", "orpo")
    (trainer,) = seen
    tokenizer, data = trainer.processing_class, trainer.train_dataset
    assert (
        len(data) == 8 and trainer.args.max_length == 700 and trainer.args.beta == profile.orpo_beta
    )
    for row in data:
        ids, answer = row["chosen_input_ids"], [t for t in row["chosen_labels"] if t != -100]
        text = tokenizer.decode(answer)
        assert (
            text.endswith("<|end|>")
            and text.count("<|end|>") == 1
            and text[: -len("<|end|>")] in set(PAIRS["chosen"])
        )
        start = tokenizer.decode(ids[: len(ids) - len(answer)])
        assert (
            start.startswith("<|start|>user")
            and start.endswith("<|start|>assistant\n")
            and start.count("<|start|>") == 2
        )


def test_divpo_is_dpo_on_fewer_pairs(profile: Profile, tmp_path: Path) -> None:
    records = train_arms(profile, STORIES, tmp_path, ["divpo-sem"])
    record = records["divpo-sem"]
    assert list(records) == ["sft", "divpo-sem"] and record["settings"]["weights"] == "semantic"
    assert record["pairs"] == 4 and record["mean_weight"] == 1.0  # two prompts, two pairs each
    assert record["unused_responses"] == 2 * 12 - 8 and record["unused_pairs"] == len(PAIRS) - 4
    assert curve(record)[0] == pytest.approx(np.log(2), rel=1e-4)
