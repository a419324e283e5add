"""The small world: the parser reads what the grammar tells; the tables are what they are called."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from faults import refusal

from ddpo_utils.small_world import grammar
from ddpo_utils.small_world.grammar import (
    DIMENSIONS,
    World,
    all_prompts,
    parse,
    prompt_text,
    story_text,
)


def test_every_story_is_read_as_it_was_told() -> None:
    stories = World(3).stories(all_prompts(3)[:200], 20)
    parsed = [parse(*row) for row in zip(stories["text"], stories["prompt"], strict=True)]
    columns = [*DIMENSIONS, "vivid"]
    assert (pd.DataFrame(parsed)[columns] == stories[columns]).all(axis=None)
    for name, modes in DIMENSIONS.items():
        assert set(stories[name]) == set(modes)


PROMPT = prompt_text("fox", "key", "forest")
STORY = story_text(PROMPT, "heist", "plain", "burned", ("old", "velvet"))
LOG = story_text(PROMPT, "heist", "log", "burned", ("old", "old"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        STORY[:-1],
        STORY + " ",
        STORY.replace("fox", "monk"),
        STORY.replace("key", "map"),
        STORY.replace("forest", "desert"),
        STORY.replace("velvet roofs", "velvet cannons"),
        STORY.replace("ran from the guards over velvet roofs", "lost the boat to velvet waves"),
        STORY.replace("velvet", "the"),
        STORY.replace("In the end it", "Then it"),
        STORY.replace("set the house on fire", "set the house on snow"),
        LOG.replace("Day 2: fox", "Day 2: monk"),
    ],
)
def test_what_the_grammar_cannot_have_made_is_invalid(text: str) -> None:
    assert parse(STORY, PROMPT) is not None
    assert parse(LOG, PROMPT) is not None
    assert parse(text, PROMPT) is None


NO_WORLDS = [
    (World, 1, 1.1),
    (World, 1, float("nan")),
    (World, -1),
    (parse, STORY, "A fox."),
    (parse, STORY, None),
    (World(1).values, ["A fox, a key, a wood."], "plot"),
]


@pytest.mark.parametrize("call", NO_WORLDS)
def test_no_world_and_no_prompt_of_one_is_refused(call) -> None:
    refusal(*call)
    assert parse(None, PROMPT) is None


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
            drawn = low.loc[low["prompt"] == prompt, name].value_counts(normalize=True)
            shares = drawn.reindex(modes, fill_value=0).to_numpy()
            assert shares == pytest.approx(expected, abs=0.04)
    assert low["vivid"].mean() / 2 == pytest.approx(grammar.P_VIVID, abs=0.02)
    assert (low["score"] - low["quality"]).std() == pytest.approx(grammar.NOISE, rel=0.05)


def test_worlds_are_the_recorded_ones() -> None:
    """The random draws behind data/results/world: figures of the code that made them."""
    frame = World(1, 0.6).stories(all_prompts(1)[40:42], 2)
    assert frame["plot"].tolist() == ["heist", "ghost", "trial", "fever"]
    assert frame["text"][1] == (
        "My dear, I must tell you of the shepherd in our harbour: he heard the violin whisper at "
        "long midnight, and, you know, he followed a old ghost into the cellar; at last he died "
        "alone in the snow. Yours."
    )
    scores = [0.08528302819995545, -1.2545671770755513, 0.05278400288161919, 0.2190704610235102]
    assert frame["score"].tolist() == pytest.approx(scores, abs=1e-12)
