"""The small world's model and its runs, on a world that is smaller still."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ddpo_utils.models.policy import load_policy
from ddpo_utils.settings import CourseError
from ddpo_utils.small_world import experiment as world_runs
from ddpo_utils.small_world.experiment import Seed
from ddpo_utils.small_world.grammar import World, all_prompts
from ddpo_utils.small_world.language_model import make_model, make_tokenizer

SIZES = {"test_prompts": 3, "samples": 4, "stories": 48, "model_steps": 3}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Seed:
    return Seed(5, tmp_path_factory.mktemp("world"), SIZES)


def test_the_tokenizer_gives_every_story_back() -> None:
    world, prompts = World(5), all_prompts(5)
    tokenizer = make_tokenizer([*prompts, *world.stories(prompts, 20)["text"]])
    fresh = world.stories(prompts[:500], 2, draw=9)
    ids = tokenizer(fresh["text"].tolist())["input_ids"]
    assert tokenizer.batch_decode(ids) == fresh["text"].tolist()
    assert tokenizer.unk_token_id not in {i for row in ids for i in row}
    assert max(map(len, ids)) < 60
    chat = [
        {"role": "user", "content": prompts[0]},
        {"role": "assistant", "content": fresh["text"][0]},
    ]
    told = tokenizer.apply_chat_template(chat, tokenize=False)
    assert told == f"<prompt>{prompts[0]}<story>{fresh['text'][0]}<end>"
    asked = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert told.startswith(asked)  # or the loss would begin at another token than sampling does


def test_the_model_is_a_llama_of_its_size_and_is_kept(tiny: Seed) -> None:
    folder = Path(tiny.profile.model)
    model, tokenizer = load_policy(tiny.profile)
    assert model.config.model_type == "llama"
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 4e6
    assert tokenizer.eos_token == "<end>"
    assert model.generation_config.eos_token_id in (
        tokenizer.eos_token_id,
        [tokenizer.eos_token_id],
    )
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert make_model(World(5), folder, SIZES["test_prompts"], SIZES["model_steps"]) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    losses = []
    for steps in (1, 30):
        folder = make_model(World(5), tmp_path / str(steps), 3, steps, batch=8)
        model, tokenizer = (
            kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer)
        )
        story = World(5).stories(all_prompts(5)[:1], 1, draw=8)["text"][0]
        ids = tokenizer(f"<prompt>{all_prompts(5)[0]}<story>{story}<end>", return_tensors="pt")[
            "input_ids"
        ]
        with torch.no_grad():
            losses.append(model(ids, labels=ids).loss.item())
    assert losses[1] < losses[0] - 0.3


def test_no_training_prompt_is_a_test_prompt(tiny: Seed) -> None:
    stories = tiny.stories(World(5), each=4)
    assert len(stories) == SIZES["stories"]
    assert not set(stories["prompt"]) & set(tiny.prompts[: SIZES["test_prompts"]])
    assert len(tiny.stories(World(5), each=12)) == len(stories)


def test_arms_are_trained_and_counted(tiny: Seed, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {
        "sft_steps": 1,
        "sft_batch_size": 4,
        "batch_size": 8,
        "micro_batch": 8,
        "max_new_tokens": 8,
    }
    plan = world_runs.rules()
    monkeypatch.setattr(world_runs, "rules", lambda: plan | {"settings": plan["settings"] | short})
    own = Seed(5, tiny.folder.parent / "arms", SIZES)
    (own.folder).mkdir()
    (own.folder / "model").symlink_to(tiny.profile.model)
    adapters = own.cell(0.0, ["dpo", "ddpo", "shuffled"])
    rows = [own.row(0.0, arm, adapter) for arm, adapter in adapters.items()]
    assert [row["arm"] for row in rows] == ["dpo", "ddpo", "shuffled"]
    for row in rows:
        assert row["steps"] == SIZES["stories"] / 2 / 8
        assert 0 <= row["valid"] <= 1
    assert rows[0]["mean_weight"] == 1 != rows[1]["mean_weight"]
    few = [own.few(4, "k4"), own.few(4, "floor", floor=0.5), own.few(4, "top", top=True)]
    runs = [json.loads((folder / "run.json").read_text("utf-8")) for folder in few]
    assert [run["pairs"] for run in runs] == [
        SIZES["stories"] / 2
    ] * 3  # pairs and so steps are held
    assert runs[1]["settings"]["floor"] == 0.5
    assert runs[1]["effective_pairs"] > runs[0]["effective_pairs"]
    samples = own.sample("rho+0.0-dpo", adapters["dpo"])
    assert len(samples) == SIZES["test_prompts"] * SIZES["samples"]
    assert set(samples["prompt"]) == set(own.prompts[: SIZES["test_prompts"]])


@pytest.mark.parametrize("seeds", [[], [901], [1, 902], [-1]])
def test_a_tuning_world_is_no_test_world(seeds: list[int]) -> None:
    with pytest.raises(CourseError, match="served for tuning"):
        world_runs.record_world(seeds)


def test_a_recorded_world_is_kept_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_runs, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(
        world_runs, "rules", lambda: {"tuning_seeds": [901], "seeds": [10, 9], "rhos": [0.0]}
    )
    (tmp_path / "results" / "world").mkdir(parents=True)
    for seed in (10, 9):
        rows = [{"rho": 0.0, "arm": "dpo", "total": float(seed)}]
        (tmp_path / "results" / "world" / f"{seed}.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(world_runs, "run_seed", lambda *_: pytest.fail("run again"))
    world_runs.record_world([9, 10])
    frame = world_runs.load_world()
    assert frame[["seed", "arm", "total"]].to_numpy().tolist() == [
        [9, "dpo", 9.0],
        [10, "dpo", 10.0],
    ]
