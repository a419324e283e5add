"""The reward's scale, its training and scores on a tiny Llama, and the trial that lets it speak or not."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from awkward_posts import small_posts

from ddpo_utils import get_profile, reward, reward_training
from ddpo_utils.arms import training_stories
from ddpo_utils.corpus import make_pairs
from ddpo_utils.profiles import CourseError, Profile
from ddpo_utils.reward import Target, compress, load_reward, reward_inputs, score_stories, tokenize
from ddpo_utils.reward_record import load_trial, record_reward
from ddpo_utils.reward_training import train_reward
from ddpo_utils.reward_trial import calibration, choose_reward, reward_accuracy, trial_splits
from ddpo_utils.stats import Interval


def corpus(prompts: int = 4, writers: int = 6, known: bool = True) -> pd.DataFrame:
    """Short stories; the score is shown by a word, which a tiny model can learn."""
    rows = []
    for p in range(prompts):
        for w in range(writers):
            score = (3 * p + 5 * w) % 7
            text = f"{'good light ' * score}{'dark sea ' * (6 - score)}number {w}."
            rows.append((f"p{p}", f"The light of town {p}.", text, float(score), f"w{w}" if known else "", "train"))
    return pd.DataFrame(rows, columns=["prompt_id", "prompt", "text", "score", "writer", "split"])


@pytest.fixture
def tiny_profile(tiny_folder: Path) -> Profile:
    return get_profile(
        "laptop", model=str(tiny_folder), reward=str(tiny_folder), dtype="float32", max_length=128, sft_steps=12,
        sft_learning_rate=1e-2, checkpoint_every=5, sample_batch=5,
    )  # fmt: skip


# -- the scale ---------------------------------------------------------------------------------------------------


def test_compression_is_the_paper_s_from_zero_up():
    for votes in (0, 1, 2, 7.5, 40, 12345):
        by_hand = float(votes)
        for _ in range(100):
            by_hand = math.log1p(by_hand)
        assert compress(votes) == pytest.approx(by_hand, rel=1e-14)
    assert compress([4.0, -2.5], times=0).tolist() == [4.0, -2.5]


def test_compression_never_falls_and_knows_negative_votes():
    values = compress(np.arange(-3000, 3001))
    assert np.isfinite(values).all() and (np.diff(values) > 0).all()
    assert np.isfinite(compress([-1.0, -3.0, -1e9, 1e9])).all()
    assert compress(-3) == -compress(3) and compress(0) == 0


@pytest.mark.parametrize("scores", [[-3, 0, 1, 1, 50, 4000], [1, 2], [-9, -1, -1], [2.5, 7.0, 10.0]])
@pytest.mark.parametrize("times", [0, 100])
def test_scores_are_stretched_between_minus_one_and_one_in_their_order(scores: list[float], times: int):
    values = Target.fit(scores, times)(scores)
    assert values.min() == -1 and values.max() == 1
    for a, x in zip(scores, values, strict=True):
        for b, y in zip(scores, values, strict=True):
            assert np.sign(a - b) == np.sign(x - y)  # ties stay ties


def test_bounded_scores_are_only_stretched_and_constants_give_the_scale_back():
    target = Target.fit([1.0, 5.5, 10.0], times=0)
    assert target([1.0, 5.5, 10.0]).tolist() == pytest.approx([-1, 0, 1])
    again = Target(**json.loads(json.dumps(asdict(Target.fit([-3, 2, 900])))))
    assert again([-3, 0, 2]).tolist() == Target.fit([-3, 2, 900])([-3, 0, 2]).tolist()


def test_a_single_value_is_no_scale_and_missing_scores_are_refused():
    assert Target.fit([4, 4, 4])([4, 9, -3]).tolist() == [0, 0, 0]
    for scores in ([], [1, math.nan], [math.inf, 1]):
        with pytest.raises(CourseError, match="finite score"):
            Target.fit(scores)


# -- what it reads -----------------------------------------------------------------------------------------------


def test_too_long_a_story_loses_its_end_and_not_the_closing_tag(tiny):
    tokenizer = tiny[1]
    stories = pd.DataFrame({"prompt": ["The sea."] * 2, "text": ["Short 🙂.", "light " * 200]})
    texts = reward_inputs(stories)
    assert texts[0] == "<prompt>The sea.</prompt><response>Short 🙂.</response>"
    with pytest.warns(UserWarning, match="reads 90 tokens: 1 of 2"):
        short, long = tokenize(tokenizer, texts, 90)
    assert tokenizer.decode(short) == texts[0] and len(long) == 90
    assert tokenizer.decode(long).startswith("<prompt>The sea.</prompt><response>light light")
    assert tokenizer.decode(long).endswith("</response>")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fresh_reward_is_lora_and_a_head_of_zeros_in_float32(tiny_profile: Profile, dtype: str):
    model, tokenizer = load_reward(get_profile("laptop", reward=tiny_profile.reward, dtype=dtype))
    lora = model.peft_config["default"]
    assert (lora.r, lora.lora_alpha) == (16, 32)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name or "score" in name for name in trained)
    heads = [p for name, p in model.named_parameters() if name.endswith("score.modules_to_save.default.weight")]
    assert len(heads) == 1 and heads[0].dtype == torch.float32 and not heads[0].any()
    out = model(**tokenizer(["The light.", "The sea answers."], return_tensors="pt", padding=True)).logits
    assert out.tolist() == [[0], [0]] and out.dtype == torch.float32


def test_the_targets_of_lora_are_the_profile_s(tiny_profile: Profile):
    model, _ = load_reward(get_profile("8b", reward=tiny_profile.reward, dtype="float32"))
    assert {name.split(".lora_A")[0].rsplit(".", 1)[1] for name, _ in model.named_parameters() if "lora_A" in name} == {
        "q_proj", "v_proj",
    }  # fmt: skip


def test_gemma_2_the_paper_s_backbone_can_be_one(tiny, tiny_profile: Profile, tmp_path: Path):
    """Its attention caps scores, which sdpa cannot."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma2Config(vocab_size=len(tiny[1]), bos_token_id=1, eos_token_id=2, pad_token_id=0, **size, **heads)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    tiny[1].save_pretrained(tmp_path / "gemma")
    small = {"sft_steps": 2, "sft_learning_rate": 1e-2, "sft_warmup_steps": 0, "dtype": "bfloat16", "max_length": 96}
    profile = get_profile("8b", reward=str(tmp_path / "gemma"), **small)
    record = train_reward(profile, corpus(2, 3), tmp_path / "r")
    assert record["steps"] == 2 and record["backbone"] == "gemma"
    assert np.ptp(score_stories(profile, tmp_path / "r", corpus(2, 3))) > 0


def test_what_cannot_be_loaded_is_said_in_a_sentence(tiny_profile: Profile, tmp_path: Path):
    with pytest.raises(CourseError, match="no-such-model"):
        load_reward(get_profile("laptop", reward=str(tmp_path / "no-such-model")))
    for call in (lambda: load_reward(tiny_profile, tmp_path), lambda: score_stories(tiny_profile, tmp_path, corpus())):
        with pytest.raises(CourseError, match="ddpo_utils reward"):
            call()


# -- training ----------------------------------------------------------------------------------------------------


def test_regression_learns_the_scores(tiny_profile: Profile, tmp_path: Path):
    stories, target = corpus(), Target.fit(corpus()["score"], 0)
    profile = replace(tiny_profile, sft_steps=40, sft_batch_size=24)
    record = train_reward(profile, stories, tmp_path / "r", target=target)
    first = record["log"][0]["loss"]  # every score starts at 0, whatever parts the batch is made of
    assert first == pytest.approx(np.abs(target(stories["score"])).mean(), rel=1e-5)
    assert record["log"][-1]["loss"] < 0.5 * first and record["steps"] == 40
    scores = score_stories(profile, tmp_path / "r", stories)
    assert np.corrcoef(scores, stories["score"])[0, 1] > 0.8
    assert np.abs(scores - target(stories["score"])).mean() < 0.7 * first  # on the target's own scale
    assert Target(**record["target"]) == target


def test_bradley_terry_learns_the_order(tiny_profile: Profile, tmp_path: Path):
    stories = corpus()
    profile = replace(tiny_profile, sft_steps=40, sft_batch_size=24)
    record = train_reward(profile, stories, tmp_path / "r", "bradley-terry")
    assert record["log"][0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert record["log"][-1]["loss"] < 0.5 * math.log(2)
    scores, pairs = score_stories(profile, tmp_path / "r", stories), make_pairs(stories, profile.min_gap, profile.seed)
    assert len(pairs) > 8 and (scores[pairs["chosen_row"]] > scores[pairs["rejected_row"]]).all()


def test_plain_peft_loads_the_adapter_and_it_names_no_folder_of_this_machine(tiny_profile: Profile, tmp_path: Path):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    stories, folder = corpus(), tmp_path / "r"
    train_reward(tiny_profile, stories, folder)
    files = [path for path in folder.iterdir() if path.suffix in (".json", ".md")]
    assert len(files) >= 4 and not any(str(Path(tiny_profile.reward).parent) in path.read_text() for path in files)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_profile.reward, num_labels=1, dtype=torch.float32)
    base.config.pad_token_id = 0
    model, (_, tokenizer) = PeftModel.from_pretrained(base, str(folder)).eval(), load_reward(tiny_profile, folder)
    inputs = tokenizer(reward_inputs(stories), return_tensors="pt", padding=True)
    with torch.no_grad():
        plain = model(**inputs).logits[:, 0].numpy()
    assert np.abs(plain).max() > 0.01
    assert score_stories(tiny_profile, folder, stories) == pytest.approx(plain, abs=1e-4)


class Killed(Exception):
    pass


def kill_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise Killed

    make = reward_training._trainer

    def with_kill(*args):
        trainer = make(*args)
        trainer.add_callback(Kill())
        return trainer

    monkeypatch.setattr(reward_training, "_trainer", with_kill)


@pytest.mark.parametrize("objective", reward_training.OBJECTIVES)
def test_a_killed_training_goes_on_to_the_same_scores(
    tiny_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
):
    stories = corpus()
    whole = train_reward(tiny_profile, stories, tmp_path / "whole", objective)
    with monkeypatch.context() as patch:
        kill_after(8, patch)
        with pytest.raises(Killed):
            train_reward(tiny_profile, stories, tmp_path / "killed", objective)
    assert not (tmp_path / "killed" / "reward.json").exists()
    with monkeypatch.context() as patch:
        kill_after(5, patch)  # a step that is not done again
        resumed = train_reward(tiny_profile, stories, tmp_path / "killed", objective)
    assert resumed["log"][-1]["loss"] == pytest.approx(whole["log"][-1]["loss"], rel=1e-4)
    both = [score_stories(tiny_profile, tmp_path / name, stories) for name in ("whole", "killed")]
    assert both[1] == pytest.approx(both[0], abs=1e-4) and np.ptp(both[0]) > 0.01


def test_a_finished_training_is_kept_and_another_one_replaces_it(
    tiny_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stories, profile = corpus(2, 3), replace(tiny_profile, sft_steps=1)
    first = train_reward(profile, stories, tmp_path)
    (tmp_path / "scores.json").touch()
    with monkeypatch.context() as patch:
        patch.setattr(reward_training, "_trainer", None)  # would fail if it were called
        assert train_reward(replace(profile, samples=9), stories, tmp_path) == first
        with pytest.raises(TypeError):
            train_reward(profile, stories, tmp_path, "bradley-terry")
    other = train_reward(profile, stories.assign(score=stories["score"][::-1].to_numpy()), tmp_path)
    assert other["run"] != first["run"] and not (tmp_path / "scores.json").exists()


def test_faulty_orders_are_refused(tiny_profile: Profile, tmp_path: Path):
    with pytest.raises(CourseError, match="objective 'votes'"):
        train_reward(tiny_profile, corpus(), tmp_path, "votes")
    with pytest.raises(CourseError, match="finite score"):
        train_reward(tiny_profile, corpus().assign(score=math.nan), tmp_path)
    with pytest.raises(CourseError, match="No preference pair"):
        train_reward(tiny_profile, corpus().assign(score=4.0), tmp_path, "bradley-terry")


# -- scores ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Profile, Path]:
    profile = get_profile(
        "laptop", reward=str(tiny_folder), dtype="float32", max_length=128, sft_steps=3, sft_learning_rate=1e-2,
        sample_batch=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("reward")
    train_reward(profile, corpus(), folder)
    return profile, folder


def test_scores_depend_on_the_story_alone(trained: tuple[Profile, Path], tmp_path: Path):
    profile, folder = trained
    stories = corpus().assign(text=[f"{t} light" * (1 + i % 3) for i, t in enumerate(corpus()["text"])])
    scores = score_stories(profile, folder, stories, tmp_path / "a")
    assert scores.shape == (24,) and scores.dtype == np.float64 and np.isfinite(scores).all()
    mixed = stories.sample(frac=1, random_state=0)
    larger = replace(profile, sample_batch=7)
    again = pd.Series(score_stories(larger, folder, mixed, tmp_path / "b"), index=mixed.index).loc[stories.index]
    assert again.to_numpy() == pytest.approx(scores, abs=1e-5) and np.ptp(scores) > 1e-3
    assert score_stories(profile, folder, stories[:0], tmp_path / "a").shape == (0,)
    prompts = score_stories(profile, folder, stories.assign(prompt="Another prompt."), tmp_path / "a")
    assert not np.allclose(prompts, scores)


def test_scores_are_kept_on_disk_by_adapter_and_a_broken_off_run_goes_on(
    trained: tuple[Profile, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile, folder = trained
    asked: list[str] = []
    encode = reward._Scorer.encode

    def breaks_off(self, texts, normalize_embeddings=True):
        if len(asked) >= 8:
            raise Killed
        asked.extend(texts)
        return encode(self, texts)

    doubled = pd.concat([corpus(), corpus()], ignore_index=True)
    with monkeypatch.context() as patch:
        patch.setattr(reward._Scorer, "encode", breaks_off)
        with pytest.raises(Killed):
            score_stories(profile, folder, doubled, tmp_path)
    before = len(asked)
    with monkeypatch.context() as patch:
        patch.setattr(reward._Scorer, "encode", lambda self, texts, **_: asked.extend(texts) or encode(self, texts))
        scores = score_stories(profile, folder, doubled, tmp_path)
    assert before == 8 and len(asked) == len(set(asked)) == 24  # nothing twice
    assert (scores[:24] == scores[24:]).all()
    monkeypatch.setattr(reward, "load_reward", None)  # nothing is loaded for what is known
    assert (score_stories(profile, folder, doubled, tmp_path) == scores).all()
    with pytest.raises(TypeError):
        score_stories(replace(profile, max_length=64), folder, doubled, tmp_path)


def test_a_reward_that_gives_no_numbers_is_refused(trained: tuple[Profile, Path], tmp_path: Path):
    import shutil

    from safetensors.torch import load_file, save_file

    profile, folder = trained
    shutil.copytree(folder, tmp_path / "broken")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({k: v * math.nan for k, v in tensors.items()}, tmp_path / "broken" / "adapter_model.safetensors")
    with pytest.raises(CourseError, match="no numbers"):
        score_stories(profile, tmp_path / "broken", corpus(), tmp_path)


# -- the trial ---------------------------------------------------------------------------------------------------


def fold_scores(stories: pd.DataFrame, splits: list, values: np.ndarray) -> list[list[float]]:
    return [values[in_prompt].tolist() for in_prompt, _ in splits]


def test_accuracy_of_the_truth_its_opposite_and_of_knowing_nothing():
    stories = corpus(6, 9)
    splits, truth = trial_splits(stories, 1), stories["score"].to_numpy()
    assert len(splits) == 9
    for values, expected in ((truth, 1), (-truth, 0), (0 * truth, 0)):
        figures = reward_accuracy(stories, splits, fold_scores(stories, splits, values))
        assert {name: figure.mean for name, figure in figures.items()} == {
            "unseen prompts": expected, "unseen prompts and writers": expected,
        }  # fmt: skip
        assert all(figure.n == 6 for figure in figures.values())


def test_accuracy_tells_known_writers_from_unseen_ones():
    """A reward that knows in each fold the scores of the writers it saw, and gives the others none."""
    stories = corpus(6, 9)
    splits = trial_splits(stories, 2)
    scores = [np.where(w, 0, stories["score"])[p].tolist() for p, w in splits]
    figures = reward_accuracy(stories, splits, scores)
    assert figures["unseen prompts"].mean == 1 and figures["unseen prompts and writers"].mean == 0


@pytest.mark.parametrize("writers", [["w1", "w2"] * 15, [""] * 30, [None] * 30])
def test_where_writers_are_not_known_one_fold_holds_out_prompts(writers: list):
    stories = corpus(10, 3).assign(writer=writers)
    splits = trial_splits(stories, 0)
    assert len(splits) == 1 and splits[0][0].sum() == 3 and not splits[0][1].any()
    two = [(stories["prompt_id"].isin(["p1", "p2"]).to_numpy(), splits[0][1])]
    figures = reward_accuracy(stories, two, [stories["score"][two[0][0]].tolist()])
    assert figures["unseen prompts"].mean == 1 and figures["unseen prompts and writers"] is None


def test_calibration_by_hand():
    predicted, observed = [0.1, 0.1, 0.9, 0.9], [0, 1, 1, 1]
    got = calibration(predicted, observed, ["a", "b", "a", "b"], bins=2)
    assert [(b["n"], b["predicted"], b["observed"]) for b in got["bins"]] == [
        (2, pytest.approx(0.1), 0.5), (2, pytest.approx(0.9), 1.0),
    ]  # fmt: skip
    assert got["error"].mean == pytest.approx(0.5 * 0.4 + 0.5 * 0.1) and got["error"].n == 2
    assert got["error"].low <= got["error"].mean <= got["error"].high
    same = calibration([0.7] * 6, [1, 0, 1, 1, 0, 1], list("aabbcc"))  # a single value is a single bin
    assert len(same["bins"]) == 1 and same["error"].mean == pytest.approx(abs(0.7 - 4 / 6))


def test_calibration_tells_honest_from_overconfident_predictions():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 4000)
    won, prompts = rng.random(4000) < p, np.arange(4000) % 80
    honest = calibration(p, won, prompts)["error"]
    assert honest.mean < 0.03
    bold = calibration(0.5 + (p - 0.5) * 2 * (p < 0.75) + (p >= 0.75) * (1 - p), won, prompts)["error"]
    assert bold.low > honest.high


def interval(mean: float, low: float) -> Interval:
    return Interval(mean, low, 2 * mean - low, 19)


@pytest.mark.parametrize(
    ("ridge", "new", "chosen", "passed"),
    [
        ((0.49, 0.42), (0.55, 0.48), "new", False),  # better, and still below the bound
        ((0.55, 0.48), (0.49, 0.42), "ridge", False),
        ((0.66, 0.59), (0.65, 0.61), "new", True),  # the bound goes before the mean
        ((0.70, 0.61), (0.66, 0.62), "ridge", True),
        ((0.70, 0.60), (0.70, 0.60), "ridge", True),  # at the bound; among equals nothing is replaced
    ],
)
def test_the_choice_follows_the_figures(ridge, new, chosen, passed):
    # accuracy on unseen prompts alone would say the opposite, and has no say where writers are known
    figures = {
        "ridge": {"unseen prompts": interval(0.9, 0.8), "unseen prompts and writers": interval(*ridge)},
        "new": {"unseen prompts": interval(0.7, 0.6), "unseen prompts and writers": interval(*new)},
    }
    got = choose_reward(figures, 0.6)
    assert (got["reward"], got["passed"]) == (chosen, passed)
    assert got["quality"] == ("quality to be compared" if passed else "quality not measured")
    bare = {name: {"unseen prompts": f["unseen prompts and writers"], "unseen prompts and writers": None}
            for name, f in figures.items()}  # fmt: skip
    assert choose_reward(bare, 0.6) == got


@pytest.mark.parametrize("known", [False, pytest.param(True, marks=pytest.mark.slow)])  # nine folds take a while
def test_a_trial_is_recorded_and_goes_on_fold_by_fold(
    tiny_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
):
    monkeypatch.chdir(tmp_path)
    small = {"semantic": "delta", "style": "stylometric", "sft_steps": 1, "sft_batch_size": 4, "dtype": "float32"}
    if known:
        corpus(3, 6).to_json(tmp_path / "own.jsonl", orient="records", lines=True)
        profile, objectives = replace(tiny_profile, data=str(tmp_path / "own.jsonl"), **small), ("regression",)
    else:  # r/writingPrompts: votes, negative ones among them, and no writer
        small |= dict.fromkeys(("model", "tokenizer", "reward"), tiny_profile.reward)
        profile = get_profile("8b", data=str(small_posts(tmp_path / "posts.parquet", 40, 4)), max_length=256, **small)
        objectives = reward_training.OBJECTIVES
    returned, root = record_reward(profile, objectives), tmp_path / "build" / profile.name / "reward"
    text = (root / "reward.json").read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text and len(text) < 200_000
    assert len(record["folds"]) == (9 if known else 1) == len(record["training"]["regression"])
    assert set(record["accuracy"]) == {"ridge", *objectives} | ({"writer"} if known else set())
    assert record["choice"]["reward"] in ("ridge", *objectives) and set(record["calibration"]) == {"ridge", *objectives}
    assert record["target"]["times"] == 100 and (known or record["target"]["low"] < 0)
    stories = training_stories(profile)  # figures follow from the recorded scores
    again = reward_accuracy(stories, trial_splits(stories, profile.seed), record["scores"]["ridge"])
    assert again["unseen prompts"] == returned["accuracy"]["ridge"]["unseen prompts"]
    loaded = load_trial(profile)
    assert loaded["accuracy"] == returned["accuracy"] and loaded["calibration"] == returned["calibration"]
    assert score_stories(profile, root / record["final"], stories[:2]).shape == (2,)
    for fold in root.glob("*/fold-*"):
        assert not (fold / "adapter_model.safetensors").exists() and (fold / "scores.json").is_file()
    monkeypatch.setattr(reward_training, "_trainer", None)  # nothing is trained twice
    (root / "reward.json").unlink()
    assert record_reward(profile, objectives)["scores"] == record["scores"]


def test_too_few_prompts_for_a_trial_are_refused_before_any_training(
    tiny_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reward_training, "_trainer", None)
    corpus(8, 3, known=False).to_json(tmp_path / "own.jsonl", orient="records", lines=True)
    with pytest.raises(CourseError, match="20 prompts"):
        record_reward(replace(tiny_profile, data=str(tmp_path / "own.jsonl")), output=tmp_path)
