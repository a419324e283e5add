"""The small world: what the grammar says and the parser reads, the tables, and what is counted on samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ddpo_utils.pairs import make_pairs
from ddpo_utils.small_world import grammar as w
from ddpo_utils.small_world.grammar import (
    DIMENSIONS,
    World,
    all_prompts,
    parse,
    prompt_text,
    story_text,
)
from ddpo_utils.small_world.measures import COMPARED, INVALID, entropy, measure, read_stories


@pytest.fixture(scope="module")
def stories() -> pd.DataFrame:
    return World(3).stories(all_prompts(3)[:200], 20)


def test_every_story_of_the_grammar_is_read_as_it_was_told(stories: pd.DataFrame) -> None:
    told = pd.DataFrame(
        [parse(t, p) for t, p in zip(stories["text"], stories["prompt"], strict=True)]
    )
    for name in [*DIMENSIONS, "vivid"]:
        assert told[name].tolist() == stories[name].tolist()
    for name, modes in DIMENSIONS.items():
        assert set(stories[name]) == set(modes)


def test_every_plot_voice_and_ending_with_every_name() -> None:
    names = list(zip(w.SUBJECTS, w.OBJECTS * 2, w.PLACES * 2, strict=False))
    i = 0
    for plot in w.PLOTS:
        for voice in w.VOICES:
            for ending in w.ENDINGS:
                subject, thing, place = names[i % len(names)]
                adjectives = (w.PLAIN + w.VIVID)[i % 18], (w.VIVID + w.PLAIN)[i % 18]
                told = parse(
                    story_text(subject, thing, place, plot, voice, ending, adjectives),
                    prompt_text(subject, thing, place),
                )
                vivid = sum(a in w.VIVID for a in adjectives)
                assert told == {"plot": plot, "voice": voice, "ending": ending, "vivid": vivid}
                i += 1


TOLD = story_text("fox", "key", "forest", "heist", "plain", "burned", ("old", "velvet"))
PROMPT = prompt_text("fox", "key", "forest")


@pytest.mark.parametrize(
    "text",
    [
        "",
        TOLD[:-1],
        TOLD + " ",
        TOLD.replace("fox", "monk"),
        TOLD.replace("key", "map"),
        TOLD.replace("forest", "desert"),
        TOLD.replace("velvet roofs", "velvet cannons"),
        TOLD.replace(
            "ran from the guards over velvet roofs", "danced at the wedding in velvet shoes"
        ),
        TOLD.replace("velvet", "the"),
        TOLD.replace("In the end it", "Then it"),
        TOLD.replace("set the house on fire", "set the house on snow"),
        story_text("fox", "key", "forest", "heist", "log", "burned", ("old", "old")).replace(
            "Day 2: fox", "Day 2: monk"
        ),
    ],
)
def test_what_the_grammar_cannot_have_made_is_invalid(text: str) -> None:
    assert parse(TOLD, PROMPT) is not None
    assert parse(text, PROMPT) is None


def test_two_voices_never_read_the_same(stories: pd.DataFrame) -> None:
    for text in stories["text"].head(500):
        assert sum(pattern.fullmatch(text) is not None for pattern in w._patterns().values()) == 1


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.6])
def test_rho_is_the_correlation_of_value_with_rarity(rho: float) -> None:
    found = []
    for seed in range(40):
        world, prompts = World(seed, rho), all_prompts(seed)[:300]
        for name in DIMENSIONS:
            rarity = -np.log(world.probabilities(prompts, name))
            found.append(np.corrcoef(world.values(prompts, name).ravel(), rarity.ravel())[0, 1])
    assert np.mean(found) == pytest.approx(rho, abs=0.1)


def test_stories_follow_the_tables_and_rho_moves_quality_alone() -> None:
    prompts = all_prompts(5)[:3]
    low, high = World(5, -0.6).stories(prompts, 4000), World(5, 0.6).stories(prompts, 4000)
    assert (low["text"] == high["text"]).all()
    assert (low["quality"] != high["quality"]).all()
    for name, modes in DIMENSIONS.items():
        p = World(5).probabilities(prompts, name)
        assert p.sum(axis=1) == pytest.approx(np.ones(3))
        for prompt, expected in zip(prompts, p, strict=True):
            seen = (
                low.loc[low["prompt"] == prompt, name]
                .value_counts(normalize=True)
                .reindex(modes, fill_value=0)
            )
            assert seen.to_numpy() == pytest.approx(expected, abs=0.04)
    assert low["vivid"].mean() / 2 == pytest.approx(w.P_VIVID, abs=0.02)
    noise = low["score"] - low["quality"]
    assert noise.std() == pytest.approx(w.NOISE, rel=0.05)


def test_rare_modes_are_others_for_other_prompts_and_worlds() -> None:
    one, other = all_prompts(1)[:400], all_prompts(2)[:400]
    rarest = World(1).probabilities(one, "plot").argmin(axis=1)
    assert np.bincount(rarest, minlength=12).max() < 200
    assert (World(1).probabilities(one, "plot") != World(2).probabilities(one, "plot")).all()
    assert set(one) != set(other)


def test_quality_by_hand() -> None:
    world, prompt = World(7, 0.3), all_prompts(7)[0]
    frame = pd.DataFrame(
        [{"prompt": prompt, "plot": "war", "voice": "log", "ending": "frozen", "vivid": 2}]
    )
    values = [
        world.values([prompt], name)[0, DIMENSIONS[name].index(mode)]
        for name, mode in (("plot", "war"), ("voice", "log"), ("ending", "frozen"))
    ]
    expected = sum(values) / 3**0.5 + (2 - 2 * w.P_VIVID) / (2 * w.P_VIVID * (1 - w.P_VIVID)) ** 0.5
    assert world.quality(frame)[0] == pytest.approx(expected)


def test_the_package_makes_pairs_of_the_world(stories: pd.DataFrame) -> None:
    pairs = make_pairs(stories)
    assert len(pairs) == len(stories) / 2
    assert (
        stories["score"].loc[pairs["chosen_row"]].to_numpy()
        > stories["score"].loc[pairs["rejected_row"]]
    ).all()


def test_entropy() -> None:
    assert entropy(["a"] * 8) == 0
    assert entropy(["a", "b"] * 4) == pytest.approx(np.log(2) + 1 / 16)
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.2, 0.2, 0.1])
    drawn = np.mean([entropy(rng.choice(4, 16, p=p)) for _ in range(4000)])
    assert drawn == pytest.approx(-(p * np.log(p)).sum(), abs=0.03)  # uncorrected: 0.1 too low


def test_measure_counts_what_is_there(stories: pd.DataFrame) -> None:
    world = World(3)
    same = stories.groupby("prompt_id").head(1)
    same = same.loc[same.index.repeat(8)].reset_index(drop=True)
    many = stories.groupby("prompt_id").head(8)
    uniform, varied = (measure(frame, world, {"distance": "wordllama"}) for frame in (same, many))
    assert uniform["total"] == uniform["plot"] == uniform["voice"] == 0
    assert uniform["modes"] == 1
    assert uniform["distance"] == pytest.approx(0, abs=1e-6)
    assert varied["total"] > 3
    assert 4 < varied["modes"] <= COMPARED
    assert varied["distance"] > 0.1
    assert uniform["quality"] == pytest.approx(world.quality(same).mean())
    assert uniform["valid"] == 1


def test_an_invalid_sample_costs_quality_and_is_not_counted_as_diverse(
    stories: pd.DataFrame,
) -> None:
    world, frame = World(3), stories.groupby("prompt_id").head(8).reset_index(drop=True)
    broken = frame.assign(text=[t + " x" if i % 8 == 0 else t for i, t in enumerate(frame["text"])])
    read, whole = read_stories(broken, world), read_stories(frame, world)
    assert read["valid"].mean() == 7 / 8
    assert (read.loc[~read["valid"], "quality"] == INVALID).all()
    assert (read.loc[read["valid"], "quality"] == whole.loc[read["valid"], "quality"]).all()
    figures = measure(broken, world, {})
    assert figures["valid"] == 7 / 8
    assert figures["quality"] == pytest.approx(read["quality"].mean())
    nothing = read_stories(frame.assign(text="x"), world)
    assert not nothing["valid"].any()
    assert (nothing["quality"] == INVALID).all()
