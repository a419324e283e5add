"""A judge behind a real server with SmolLM2 and a proxy that breaks things: killed, it goes on and pays once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from flaky_proxy import FlakyProxy
from serve_fixtures import KEY, MODEL, ROOT, nowhere

from ddpo_utils.corpus.stories import load_stories
from ddpo_utils.human_eval.comparisons import build_comparisons, read_key, write_comparisons
from ddpo_utils.human_eval.judge import consistency, judge_request
from ddpo_utils.human_eval.ratings import read_labels
from ddpo_utils.human_eval.ratings import read_ratings
from ddpo_utils.models.sampling import read_samples

pytest_plugins = "serve_fixtures"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("surroundings")]


def stories(source: str) -> pd.DataFrame:
    """The first four stories of each of three prompts."""
    found = load_stories()
    found = found[
        (found["source"] == source) & found["prompt_id"].isin(sorted(set(found["prompt_id"]))[:3])
    ]
    return found.groupby("prompt_id").head(4)


def begin(url: str, comparisons: Path, ratings: Path) -> subprocess.Popen[str]:
    flags = [
        "--base-url",
        url,
        "--key-variable",
        "MY_KEY",
        "--concurrency",
        "2",
        "--max-tokens",
        "16",
        "--yes",
    ]
    command = [sys.executable, "-m", "ddpo_utils", "judge", "--model", MODEL, *flags]
    command += ["--comparisons", str(comparisons), "--output", str(ratings)]
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OPENAI_LOG": "debug",
    }  # the library at its most talkative
    return subprocess.Popen(
        command,
        cwd=ratings.parent,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_killed_judge_goes_on_and_nothing_is_paid_for_twice(server, tmp_path):
    comparisons, key = build_comparisons(
        stories("authors"), stories("assistant"), ("authors", "assistant"), seed=0
    )
    file, path = write_comparisons(tmp_path, comparisons, key), tmp_path / "m.json"
    assert len(comparisons.items) == 3
    with FlakyProxy(server, [None, "429", "cut", "503"]) as proxy:
        process, journal = begin(proxy.url, file, path), path.with_suffix(".jsonl")
        while process.poll() is None and (
            not journal.exists() or journal.read_bytes().count(b"\n") < 2
        ):
            time.sleep(0.02)
        process.kill()
        said = "".join(process.communicate())
        assert process.returncode != 0 and not path.exists(), said
        stored = read_samples(journal)
        assert 2 <= len(stored) < 6, said
        while (
            proxy.open
        ):  # calls under way at the kill are answered to nobody: no client can keep those
            time.sleep(0.05)
        before = proxy.answered
        process = begin(proxy.url, file, path)
        said += "".join(process.communicate(timeout=1800))
    assert process.returncode == 0, said
    records = read_samples(journal)
    assert proxy.answered - before == 6 - len(stored)
    pd.testing.assert_frame_equal(records.head(len(stored)), stored)
    asked = {judge_request(item, order) for item in comparisons.items for order in ("AB", "BA")}
    assert set(records["prompt"]) == asked
    assert (records["prompt_tokens"] > 500).all() and records["completion_tokens"].between(
        1, 16
    ).all()
    delivered = [answer["choices"][0]["message"]["content"].strip() for answer in proxy.delivered]
    assert all(
        delivered.count(text) >= list(records["text"]).count(text) for text in records["text"]
    )
    ratings = read_ratings(path, comparisons)
    assert ratings["kind"] == "model" and len(ratings["answers"]) == 6 and ratings["rater"] == MODEL
    assert f"{MODEL}: 6 answers to 3 comparisons" in said and nowhere(tmp_path, said)
    assert all(f"Bearer {KEY}".encode() in head for head in proxy.headers)
    assert (consistency(ratings)["items"] == 3).all()
    print(
        json.dumps(ratings["answers"], indent=1),
        consistency(ratings).to_string(),
        records["text"].tolist(),
    )
    assert len(read_labels([path], comparisons, read_key(tmp_path / "key.json", comparisons))) == 3
