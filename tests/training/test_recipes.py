"""The training recipes on a tiny model, and what they are made of: weights by prompt, the control, the divergence."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from ddpo_utils import (
    CourseError,
    Profile,
    deviation_weights,
    get_profile,
    load_encoder,
    load_stories,
    make_pairs,
)
from ddpo_utils.models.scoring import mean_logps, token_kl
from ddpo_utils.pairs import shuffled_weights
from ddpo_utils.training.recipes import response_weights, train_pairs, train_sft
from ddpo_utils.training.runs import run_facts


@pytest.fixture
def profile(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return get_profile(
        "smoke",
        model=str(tiny_folder),
        semantic="stylometric",
        style="delta",
        dtype="float32",
        max_length=300,
        learning_rate=1e-2,
        sft_steps=2,
        batch_size=2,
        sft_batch_size=2,
        checkpoint_every=1,
    )


@pytest.fixture(scope="session")
def stories() -> pd.DataFrame:
    stories = load_stories()
    return stories[(stories["source"] == "authors") & stories["prompt_id"].isin(["p01", "p02"])]


def test_weights_are_made_of_the_responses_in_pairs_alone(profile, stories):
    pairs = make_pairs(stories)[1:]  # one pair left out: its two responses take no part
    weights = response_weights(stories, pairs, profile)
    assert set(weights.index) == {*pairs["chosen_row"], *pairs["rejected_row"]}
    for prompt_id in ("p01", "p02"):
        rows = stories.loc[weights.index]
        rows = rows[rows["prompt_id"] == prompt_id]
        assert weights[rows.index].sum() == pytest.approx(len(rows))
        both = deviation_weights(
            *(load_encoder(n).encode(rows["text"].tolist()) for n in ("stylometric", "delta"))
        )
        assert np.allclose(weights[rows.index], both)


def test_ranks_share_the_embedding_and_get_the_same_weights(profile, stories, tmp_path):
    """Under torchrun, as under `accelerate launch`: each rank calls it, and takes shards while there are any."""
    script = tmp_path / "weights.py"
    script.write_text(
        "import os, sys\nimport pandas as pd\nfrom ddpo_utils import get_profile, make_pairs\n"
        "from ddpo_utils.embeddings import corpus_cache as embedding\n"
        "from ddpo_utils.training.recipes import response_weights\nembedding.SHARD = 2\n"
        "stories = pd.read_pickle(sys.argv[1])\n"
        "weights = response_weights(stories, make_pairs(stories), get_profile('smoke', semantic='wordllama'))\n"
        "weights.to_pickle(f'{sys.argv[1]}-{os.environ[\"RANK\"]}')\n"
    )
    stories.to_pickle(tmp_path / "stories")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    environment = {**os.environ, "DDPO_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "stories")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ranks = [pd.read_pickle(tmp_path / f"stories-{rank}") for rank in range(2)]
    assert ranks[0].equals(ranks[1]) and len(ranks[0]) == len(stories)
    alone = response_weights(
        stories,
        make_pairs(stories),
        dataclasses.replace(profile, semantic="wordllama", style="stylometric"),
    )
    assert np.allclose(ranks[0], alone, atol=1e-5)
    assert (
        len(list(tmp_path.glob("cache/embeddings/wordllama*/*.npz"))) == len(stories) / 2
    )  # each shard once


def test_weights_are_those_of_the_encoders_own_rows(profile):
    """The recorded runs' weights were made by `load_encoder`; a batch's make-up moves them by rounding alone."""
    stories = load_stories()
    stories = stories[
        (stories["source"] == "authors") & stories["prompt_id"].isin(["p03", "p04", "p05"])
    ]
    pairs = make_pairs(stories)
    weights = response_weights(
        stories, pairs, dataclasses.replace(profile, semantic="minilm", style="stylometric")
    )
    rows = stories.loc[weights.index]
    plain = [load_encoder(name).encode(rows["text"].tolist()) for name in ("minilm", "stylometric")]
    assert np.allclose(weights, deviation_weights(*plain, groups=rows["prompt_id"]), atol=1e-4)


def test_shuffled_weights_are_the_same_ones_within_each_prompt():
    pairs = pd.DataFrame({"prompt_id": list("abcabcabca")}, index=range(50, 60))
    weight = np.arange(10.0)
    dealt = shuffled_weights(pairs, weight, seed=1)
    assert weight.tolist() == list(range(10)) and not np.array_equal(dealt, weight)
    for prompt_id in "abc":
        own = (pairs["prompt_id"] == prompt_id).to_numpy()
        assert sorted(dealt[own]) == sorted(weight[own])
    assert np.array_equal(dealt, shuffled_weights(pairs, weight.tolist(), seed=1))
    assert any(not np.array_equal(dealt, shuffled_weights(pairs, weight, seed=s)) for s in (2, 3))
    # every position is reached: the deal is at random, not a rotation
    first = {shuffled_weights(pairs, weight, seed=s)[0] for s in range(60)}
    assert first == {0.0, 3.0, 6.0, 9.0}


def test_facts_of_a_run_name_everything_and_no_path(profile):
    facts = run_facts(profile, arm="dpo")
    assert facts["arm"] == "dpo" and facts["settings"]["beta"] == profile.beta
    assert {"code", "versions", "python", "hardware", "model"} <= set(facts)
    assert {"torch", "transformers", "trl", "peft", "accelerate", "numpy"} == set(facts["versions"])
    assert "/" not in json.dumps(facts) and facts["settings"]["model"] == facts["model"] == "tiny"


@pytest.fixture
def two_adapters(tiny: Any, adapter_folder: Path) -> tuple[Any, Any]:
    model = PeftModel.from_pretrained(tiny[0], str(adapter_folder))
    model.load_adapter(str(adapter_folder), adapter_name="ref")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.ref" in name:
                parameter *= 0.3
    return model, tiny[1]


SAMPLES = pd.DataFrame(
    {
        "prompt": ["Sea.", "A clock stops", "x", "Sea.", "Why?"],
        "text": ["the light", "", "nobody 🙂 knows", "a", "at sea"],
    }
)


def by_hand(
    model: Any, tokenizer: Any, prompt: str, text: str, adapter: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token log-probs (T, V) at the story's tokens and its end, and those tokens (T,): one story, no padding."""
    model.set_adapter(adapter)
    head = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    start = len(tokenizer(head, add_special_tokens=False)["input_ids"])
    ids = tokenizer(
        head + text + tokenizer.eos_token, add_special_tokens=False, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits[0, start - 1 : -1].double().log_softmax(-1), ids[
            0, start:
        ]


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_the_divergence_is_that_of_a_literal_loop(two_adapters, pad_is_eos):
    model, tokenizer = two_adapters
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    expected = []
    for prompt, text in zip(SAMPLES["prompt"], SAMPLES["text"], strict=True):
        p, q = (by_hand(model, tokenizer, prompt, text, name)[0] for name in ("default", "ref"))
        expected.append(sum(float((p[t].exp() * (p[t] - q[t])).sum()) for t in range(len(p))))
    model.set_adapter("default")
    got = token_kl(model.train(), tokenizer, SAMPLES)
    assert np.allclose(got, expected, rtol=1e-4) and (got > 1e-3).all()
    assert model.active_adapter == "default" and model.training
    assert np.allclose(token_kl(model, tokenizer, SAMPLES, ("ref", "ref")), 0, atol=1e-6)


def test_mean_log_probs_are_those_of_a_literal_loop(two_adapters):
    model, tokenizer = two_adapters
    expected = []
    for prompt, text in zip(SAMPLES["prompt"], SAMPLES["text"], strict=True):
        logps, tokens = by_hand(model, tokenizer, prompt, text, "default")
        expected.append(logps.gather(1, tokens[:, None]).mean().item())
    assert np.allclose(mean_logps(model.eval(), tokenizer, SAMPLES), expected, rtol=1e-4)


def test_the_arms_differ_by_their_weights_alone(profile, stories, tmp_path):
    sft, pairs = tmp_path / "sft", make_pairs(stories)
    record = train_sft(profile, stories, sft)
    assert record["arm"] == "sft" and len(record["log"]) == 2
    watch = pd.DataFrame({"prompt": ["Sea."], "text": ["the light answers"]})
    arms = {
        "dpo": None,
        "ones": [1.0] * len(pairs),
        "zeros": [0.0] * len(pairs),
        "threes": [3.0] * len(pairs),
    }
    records = {
        name: train_pairs(profile, pairs, w, tmp_path / name, sft, name, watch)
        for name, w in arms.items()
    }
    losses = {name: [entry["loss"] for entry in r["log"]] for name, r in records.items()}
    assert [p.name for p in sft.glob("reference*")] == [
        "reference-300-float32.csv"
    ]  # by the first arm, read by all
    assert losses["ones"] == pytest.approx(losses["dpo"], rel=1e-5)
    assert losses["zeros"] == [0.0, 0.0]
    assert losses["threes"][0] == pytest.approx(3 * losses["dpo"][0], rel=1e-4)

    tensors = {
        name: load_file(tmp_path / name / "adapter_model.safetensors") for name in ("sft", *arms)
    }
    for key, start in tensors["sft"].items():
        assert torch.allclose(tensors["ones"][key], tensors["dpo"][key], atol=1e-5)
        assert torch.equal(tensors["zeros"][key], start)
    assert any(not torch.equal(tensors["dpo"][key], start) for key, start in tensors["sft"].items())

    for name in arms:
        kept = json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8"))
        assert list(kept["kl"]) == ["1", "2"] and kept["pairs"] == 4  # two steps of two pairs
        assert (kept["kl"]["2"] > 1e-6) is (name != "zeros")
        assert (tmp_path / name / "checkpoints" / "checkpoint-2" / "adapter_config.json").is_file()
        assert not (tmp_path / name / "ref").exists()
        config = json.loads((tmp_path / name / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] == "tiny"  # no folder of this machine


def test_pairs_whose_texts_repeat_are_scored_once_and_kept(profile, tmp_path, adapter_folder):
    frame = pd.DataFrame({"prompt": "A", "text": ["yes", "no", "yes", "no"], "score": [2, 1, 2, 1]})
    pairs = make_pairs(load_stories(frame))
    assert len(pairs) == 2 and pairs["chosen"].nunique() == 1
    sft = tmp_path / "sft"
    shutil.copytree(adapter_folder, sft)
    profile = dataclasses.replace(profile, steps=1)
    losses = [
        train_pairs(profile, pairs, None, tmp_path / n, sft, n)["log"][0]["loss"]
        for n in ("first", "second")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert json.loads((tmp_path / "second" / "run.json").read_text(encoding="utf-8"))["pairs"] == 2


def test_too_few_pairs_are_said_before_anything_is_loaded(profile, stories, tmp_path):
    with pytest.raises(CourseError, match="1 pairs do not fill one batch of 2"):
        train_pairs(
            profile, make_pairs(stories)[:1], None, tmp_path / "dpo", tmp_path / "none", "dpo"
        )


def test_half_precision_training_is_for_cards_without_bf16(profile, tmp_path, monkeypatch):
    """is_bf16_supported() says yes to a T4, which emulates it; the card's capability decides, as for the weights."""
    from ddpo_utils.training.recipes import trainer_arguments

    seen: dict[str, Any] = {}
    profile = dataclasses.replace(profile, dtype="auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, fp16 in (((7, 5), True), ((8, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *a, c=capability: c)
        trainer_arguments(lambda **options: seen.update(options), tmp_path, profile, 4, 2)
        assert (seen["fp16"], seen["bf16"]) == (fp16, not fp16)


def test_sft_that_never_leaves_its_warm_up_is_warned_of(tmp_path: Path) -> None:
    profile = get_profile("8b", sft_steps=300, model=str(tmp_path / "nowhere"), tokenizer="")
    with (
        pytest.warns(UserWarning, match="All 300 SFT steps are warm-up"),
        pytest.raises(CourseError),
    ):
        train_sft(profile, None, tmp_path / "sft")
