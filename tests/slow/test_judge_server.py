"""A judge behind a real server and a faulty proxy: killed, it pays for nothing twice."""

from __future__ import annotations

import pandas as pd
import pytest
from flaky_proxy import FlakyProxy
from serve_fixtures import MODEL, kill_and_repeat

from ddpo_utils.corpus.stories import load_stories
from ddpo_utils.human_eval.comparisons import build_comparisons, write_comparisons
from ddpo_utils.human_eval.judge import consistency, judge_request
from ddpo_utils.human_eval.ratings import read_ratings

pytest_plugins = "serve_fixtures"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("surroundings")]


def stories(source: str) -> pd.DataFrame:
    """The first four stories of each of three prompts."""
    found = load_stories()
    chosen = found["prompt_id"].isin(sorted(set(found["prompt_id"]))[:3])
    return found[(found["source"] == source) & chosen].groupby("prompt_id").head(4)


def test_a_killed_judge_continues_and_nothing_is_paid_twice(server, tmp_path):
    sides = stories("authors"), stories("assistant")
    comparisons, key = build_comparisons(*sides, ("authors", "assistant"), seed=0)
    file, path = write_comparisons(tmp_path, comparisons, key), tmp_path / "m.json"
    command = ["judge", "--comparisons", str(file), "--output", str(path)]
    with FlakyProxy(server, [None, "429", "cut", "503"]) as proxy:
        answers = path.with_suffix(".jsonl")
        records, printed = kill_and_repeat(proxy, command, answers, at=2, total=6)
    asked = {judge_request(item, order) for item in comparisons.items for order in ("AB", "BA")}
    assert set(records["prompt"]) == asked and (records["prompt_tokens"] > 500).all()
    assert records["completion_tokens"].between(1, 16).all()
    ratings = read_ratings(path, comparisons)
    assert ratings["kind"] == "model" and ratings["rater"] == MODEL
    assert len(ratings["answers"]) == 6 and "6 answers to 3 comparisons" in printed
    assert (consistency(ratings)["items"] == 3).all()
