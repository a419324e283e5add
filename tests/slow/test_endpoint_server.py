"""A real server with SmolLM2: nothing is lost or paid twice when the process is killed."""

from __future__ import annotations

import pandas as pd
import pytest
from evaluated import POOL, THRESHOLDS
from flaky_proxy import FlakyProxy
from serve_fixtures import MODEL, kill_and_repeat

from ddpo_utils.corpus.stories import load_prompts
from ddpo_utils.evaluation.usability import rival_table
from ddpo_utils.models.endpoint import Decoding, Endpoint, sample_endpoint
from ddpo_utils.models.prompting import CONDITIONS
from ddpo_utils.models.sampling import read_samples

pytest_plugins = "serve_fixtures"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("surroundings")]

SHORT = Decoding(max_tokens=16)
PROMPTS = load_prompts()[["prompt_id", "prompt"]].head(4)


@pytest.mark.parametrize("condition", ["plain", "iterative"])
def test_a_killed_process_continues_and_pays_for_the_missing_calls_only(
    server, tmp_path, condition
):
    PROMPTS.to_json(tmp_path / "prompts.jsonl", orient="records", lines=True)
    command = ["sample", "--condition", condition, "--samples", "3", "--output", "s.jsonl"]
    command += ["--prompts", "prompts.jsonl"]
    with FlakyProxy(server, [None, "429", "cut", "500", "drop"]) as proxy:
        kill_and_repeat(proxy, command, tmp_path / "s.jsonl", at=4, total=12)


def test_every_condition_gives_a_row_of_the_rivals_table(server, tmp_path):
    endpoint, paths = Endpoint(MODEL, server, concurrency=4, timeout=60.0), []
    for condition in CONDITIONS:
        paths.append(tmp_path / f"{condition}.jsonl")
        sample_endpoint(PROMPTS[:2], paths[-1], endpoint, condition, 2, SHORT)
    table = rival_table(read_samples(paths), THRESHOLDS, POOL, {"semantic": "minilm"})
    assert isinstance(table, pd.DataFrame)
    assert table.index.tolist() == [f"{MODEL} {condition}" for condition in CONDITIONS]
    assert (table["stories"] == 4).all() and table["calls"].tolist() == [4, 4, 2]
    assert table["semantic"].between(0, 1.5).all()
    assert table["unreadable"][:2].eq(0).all()
