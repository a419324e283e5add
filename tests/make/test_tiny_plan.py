"""The plan of the runs on tiny stories."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import tiny_stories
from ddpo_utils.course.recorded import load_plan
from ddpo_utils.embeddings.encoders import load_encoder
from ddpo_utils.evaluation.statistics import Interval
from ddpo_utils.settings import CourseError, get_profile
from ddpo_utils.small_world.claims import outcome
from ddpo_utils.small_world.tiny_stories import SPLITS
from ddpo_utils.training.arms import Arm


def test_the_plan_can_be_run_as_it_is() -> None:
    plan = load_plan("tiny_stories")
    assert plan["prompts"] == SPLITS and plan["prompts"]["train"] >= 200
    assert not set(plan["seeds"]) & set(plan["development_seeds"])
    for method, settings in plan["chosen"].items():
        assert settings in plan["candidates"][method]
        profile = get_profile("laptop", **plan["settings"] | settings)
        assert profile.steps // profile.checkpoint_every >= 6  # points of a frontier
    for tier in tiny_stories.FLAGS:
        for name, how in plan[tier].items():
            Arm.parse(how.get("arm", name))
    get_profile("laptop", **plan["settings"] | plan["orpo_settings"])


def test_an_arm_without_chosen_settings_is_refused(tmp_path: Path) -> None:
    plan = load_plan("tiny_stories") | {"chosen": {"dpo": {"learning_rate": 0.1}}}
    seed = tiny_stories.Run(1, tmp_path, plan)
    with pytest.raises(CourseError, match=r"dorpo.*--develop"):
        seed.train("dorpo-shuffled")


def test_the_tests_of_the_plan_read_what_the_script_records() -> None:
    plan = load_plan("tiny_stories")
    arms = {"start", "dpo-matched", *plan["first_tier"], *plan["second_tier"]}
    kinds = ("quality", "semantic, judge", "style, judge")
    arms |= {f"{arm} at ddpo's {kind}" for arm in ("dpo", "shuffled") for kind in kinds}
    measures = {"typical", "usable", *tiny_stories.MEASURES.values()}
    measures |= {f"{name}, {tiny_stories.CUT} words" for name in tiny_stories.MEASURES.values()}
    for claim in plan["claims"]:
        for test in claim["tests"]:
            assert set(test["arms"]) <= arms and test["measure"] in measures
            assert outcome(Interval(0, -1, 1, 2), test["test"], plan["margin"]) == "open"


def test_each_prompt_has_the_diversity_of_its_own_samples() -> None:
    """The prompts come in an order that is not that of their names."""
    same, apart = ["A cook sang."] * 3, ["A cook sang.", "The sea is cold.", "Nobody paid tax."]
    stories = pd.DataFrame({"prompt_id": ["z"] * 3 + ["a"] * 3, "text": same + apart})
    stories = stories.assign(finished=True, told=1.0, own=1.0, form=1.0, readable=1.0)
    stories = stories.assign(quality=[1.0] * 3 + [2.0] * 3, typical=0.0, logp=-1.0)
    table = tiny_stories.by_prompt(stories)
    assert table.loc["z", "quality"] == 1 and table.loc["a", "quality"] == 2
    assert table.loc["z", "semantic"] == pytest.approx(0, abs=1e-6)
    rows = load_encoder("wordllama").encode(apart)
    expected = 1 - ((rows @ rows.T).sum() - 3) / 6
    for name in ("semantic, judge", "semantic, judge, usable"):
        assert table.loc["a", name] == pytest.approx(expected, abs=1e-5)
