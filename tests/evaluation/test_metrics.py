"""Failure, relevance, diversity by prompt and the reward's own test, on texts whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ddpo_utils import diversity, load_encoder, load_stories
from ddpo_utils.corpus.stories import decisions
from ddpo_utils.corpus.text import first_words
from ddpo_utils.evaluation.usability import (
    all_prompts,
    check_stories,
    ordered_pairs,
    prompt_ranks,
    prompt_table,
    reward_pairs,
    reward_splits,
)


def test_ranks_of_the_own_prompt_by_hand():
    prompts = np.eye(3)
    stories = np.array([[0.9, 0.3, 0.1], [0.9, 0.3, 0.1], [0.9, 0.3, 0.1], [0.5, 0.5, 0.5]])
    assert prompt_ranks(stories, prompts, [0, 1, 2, 1]).tolist() == [
        1,
        2,
        3,
        1,
    ]  # a tie does the own prompt no harm


def test_the_course_has_seventy_prompts():
    prompts = all_prompts()
    assert len(prompts) == 70 and prompts["prompt"].is_unique and prompts["prompt_id"].is_unique


def failures(**columns: list) -> pd.DataFrame:
    stories = load_stories()
    good = stories[stories["source"] == "assistant"].iloc[:1]
    frame = pd.DataFrame(
        {
            "prompt": good["prompt"].iloc[0],
            "text": [
                good["text"].iloc[0],
                "",
                "Too short.",
                "the light again and " * 20,
                good["text"].iloc[0],
            ],
            **columns,
        },
        index=[9, 8, 7, 6, 5],
    )
    return check_stories(frame, "wordllama", (-4.0, -1.0) if "logp" in columns else None)


def test_each_failure_is_seen_for_what_it_is():
    checks = failures(finished=[True, True, True, True, False], logp=[-2.0, -2.0, -2.0, -2.0, -9.0])
    assert checks.index.tolist() == [9, 8, 7, 6, 5]
    assert checks["short"].tolist() == [False, True, True, False, False]
    assert checks["repeating"].tolist() == [False, False, False, True, False]
    assert checks["cut"].tolist() == [False, False, False, False, True]
    assert checks["implausible"].tolist() == [False, False, False, False, True]
    assert checks["usable"].tolist() == [True, False, False, False, False]
    assert checks["n_words"].tolist()[1:3] == [0, 2]


def test_what_is_not_known_is_no_failure():
    checks = failures()
    assert (
        not checks["cut"].any() and not checks["implausible"].any() and checks["usable"].tolist()[4]
    )


def test_a_story_of_another_prompt_is_off_topic_by_the_stated_rank():
    stories = load_stories().query("source == 'assistant'").drop_duplicates("prompt_id")
    own = check_stories(stories, "wordllama")
    assert (own["off_topic"] == (own["rank"] > decisions()["on_topic_rank"])).all()
    assert own["off_topic"].mean() < 0.2
    swapped = stories.assign(text=np.roll(stories["text"], 7))
    assert check_stories(swapped, "wordllama")["rank"].mean() > own["rank"].mean() + 10


def test_a_prompt_of_one_s_own_joins_the_seventy():
    frame = pd.DataFrame(
        {
            "prompt": ["A beekeeper writes to a bank about honey."] * 2,
            "text": [
                "The beekeeper wrote to the bank again about the honey and the bees. " * 1
                + "Dear sirs, the honey is late because the queen has left the hive for the town.",
                "x " * 30,
            ],
        }
    )
    checks = check_stories(frame, "wordllama")
    assert checks["rank"].tolist()[0] == 1


def test_the_table_holds_diversity_over_all_and_over_usable_stories():
    stories = load_stories().query("source == 'authors' and prompt_id in ['p02', 'p01']")[::-1]
    checks = check_stories(stories, "wordllama")
    checks["usable"] = (np.arange(len(stories)) % 12 < 5) & (stories["prompt_id"] == "p01")
    checks.loc[checks.index[0], "usable"] = True  # a single one of p02: no diversity
    table = prompt_table(stories, checks, {"semantic": "wordllama", "style": "delta"})
    assert table.index.tolist() == ["p01", "p02"]
    for name, encoder in (("semantic", "wordllama"), ("style", "delta")):
        rows, groups = (
            load_encoder(encoder).encode(stories["text"].tolist()),
            stories["prompt_id"].to_numpy(),
        )
        assert table[name].tolist() == pytest.approx(diversity(rows, groups).tolist())
        good = (checks["usable"] & (stories["prompt_id"] == "p01")).to_numpy()
        assert table.loc["p01", f"{name} (usable)"] == pytest.approx(diversity(rows[good]))
        assert np.isnan(table.loc["p02", f"{name} (usable)"])
    assert table["usable"].tolist() == pytest.approx([5 / 12, 1 / 12])
    assert table.loc["p01", "words"] == checks.loc[stories["prompt_id"] == "p01", "n_words"].mean()
    assert (
        table.loc["p02", "top1"] == (checks.loc[stories["prompt_id"] == "p02", "rank"] == 1).mean()
    )


def test_no_usable_story_leaves_the_column_empty_and_cutting_cuts():
    stories = load_stories().query("source == 'authors' and prompt_id == 'p01'")
    checks = check_stories(stories, "wordllama").assign(usable=False)
    table = prompt_table(stories, checks, {"semantic": "wordllama"}, cut_to=25)
    assert table["semantic (usable)"].isna().all()
    short = load_encoder("wordllama").encode([first_words(t, 25) for t in stories["text"]])
    assert table["semantic"].iloc[0] == pytest.approx(diversity(short))


def judged(
    n_prompts: int = 12, n_writers: int = 8, seed: int = 0
) -> tuple[pd.DataFrame, np.ndarray]:
    """Stories whose score is their writer's fame plus a quality that one feature shows; writers have features too."""
    rng = np.random.default_rng(seed)
    stories = pd.DataFrame([(f"p{p}", f"w{w}") for p in range(n_prompts) for w in range(n_writers)])
    stories.columns = ["prompt_id", "writer"]
    quality, fame = rng.normal(size=len(stories)), rng.normal(size=n_writers) * 3
    writer = stories["writer"].str[1:].astype(int).to_numpy()
    stories["score"] = quality + fame[writer]
    return stories, np.column_stack([quality, np.eye(n_writers)[writer]])


def test_a_reward_that_knows_the_writers_fails_on_unseen_ones():
    stories, features = judged()
    fame_alone = features[:, 1:]
    known = reward_pairs(stories, fame_alone, unseen_writers=False)
    unseen = reward_pairs(stories, fame_alone, unseen_writers=True)
    assert known["right"].mean() > 0.85
    assert unseen["right"].mean() < 0.2  # it knows nothing there, and guesses no pair right
    both = reward_pairs(stories, features, unseen_writers=True)
    assert both["right"].mean() > unseen["right"].mean() + 0.3


def test_every_pair_of_a_prompt_is_asked_once_and_ties_are_not():
    stories, features = judged(6, 4)
    assert len(reward_pairs(stories, features, False)) == 6 * (4 * 3 // 2)
    tied = stories.assign(score=[1.0, 1.0, 2.0, 3.0] * 6)
    assert len(reward_pairs(tied, features, False)) == 6 * 5
    # of 8 writers in 4 parts, only the pairs of held-out writers: one a part
    stories, features = judged(6, 8)
    assert len(reward_pairs(stories, features, True)) == 6 * 4


def test_few_prompts_and_writers_leave_parts_out_and_do_not_fail():
    stories, features = judged(3, 2)
    assert reward_pairs(stories, features, False)["prompt_id"].nunique() == 3
    assert len(reward_pairs(stories, features, True)) == 0  # no two held-out writers in a part
    assert len(reward_pairs(*judged(1, 4), False)) == 0


def test_ordered_pairs_by_hand():
    stories = pd.DataFrame(
        {"prompt_id": ["b", "a", "b", "a", "b"], "score": [1.0, 5.0, 4.0, 5.0, 9.0]}, index=[7] * 5
    )
    pairs = ordered_pairs(stories, np.array([0.2, 9.0, 0.5, 1.0, 0.5]))
    assert pairs["prompt_id"].tolist() == ["b", "b", "b"]  # the tie of a is no pair
    assert pairs["margin"].tolist() == pytest.approx([0.3, 0.3, 0.0])
    assert pairs["right"].tolist() == [True, True, False]  # 4 against 9 is not told apart
    assert len(ordered_pairs(stories[:0], np.zeros(0))) == 0


@pytest.mark.parametrize("writer_parts", [0, 1, 4])
def test_splits_cross_prompts_with_writers_and_hold_each_out_once(writer_parts: int):
    stories, _ = judged(12, 8)
    splits = reward_splits(stories, 3, writer_parts, seed=5)
    assert len(splits) == 3 * max(1, writer_parts)
    both = np.sum([p & w for p, w in splits], axis=0)
    assert (
        both == (1 if writer_parts else 0)
    ).all()  # every story is unseen twice in exactly one split
    assert (np.sum([p for p, _ in splits], axis=0) == max(1, writer_parts)).all()
    for in_prompt, in_writer in splits:
        train = ~in_prompt & ~in_writer
        assert not set(stories["prompt_id"][train]) & set(stories["prompt_id"][in_prompt])
        assert not set(stories["writer"][train]) & set(stories["writer"][in_writer])
        assert in_prompt.sum() == 4 * 8 and in_writer.sum() == (
            12 * 8 // writer_parts if writer_parts else 0
        )
    same = reward_splits(stories, 3, writer_parts, seed=5)
    assert all(
        (a == c).all() and (b == d).all() for (a, b), (c, d) in zip(splits, same, strict=True)
    )
    assert any(
        (a != c).any()
        for (a, _), (c, _) in zip(splits, reward_splits(stories, 3, writer_parts, 6), strict=True)
    )
