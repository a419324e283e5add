"""A real server that serves SmolLM2 behind a proxy that breaks things: nothing is lost, nothing is paid for twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flaky_proxy import FlakyProxy
from serve_fixtures import KEY, MODEL, ROOT, nowhere

from ddpo_utils.corpus.stories import load_prompts
from ddpo_utils.evaluation.rivals import rival_table
from ddpo_utils.models.endpoint import sample_endpoint
from ddpo_utils.models.sampling import read_samples

pytest_plugins = "serve_fixtures"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("surroundings")]

FAST = {"max_tokens": 16, "timeout": 60.0, "concurrency": 4, "progress": False}
PROMPTS = load_prompts()[["prompt_id", "prompt"]].head(4)


def texts(frame: pd.DataFrame) -> list[str]:
    return sorted(frame["text"])


def contents(proxy: FlakyProxy) -> list[str]:
    return sorted(answer["choices"][0]["message"]["content"].strip() for answer in proxy.delivered)


def test_all_faults_at_once_lose_nothing_and_only_cut_answers_are_made_again(
    server, tmp_path, capfd
):
    faults = [
        None,
        "429",
        "429 retry-after",
        "500",
        "cut",
        "hang",
        "503",
        "drop",
        None,
        "cut",
        "429",
        "cut",
        None,
        "500",
    ]
    path = tmp_path / "s.jsonl"
    with FlakyProxy(server, faults) as proxy:
        frame = sample_endpoint(
            PROMPTS,
            path,
            MODEL,
            proxy.url,
            samples=3,
            key_variable="MY_KEY",
            **FAST | {"timeout": 30.0},
        )
    assert len(frame) == len(read_samples(path)) == len(PROMPTS) * 3
    assert not frame.duplicated(["prompt_id", "sample"]).any()
    assert texts(frame) == contents(proxy) and frame["text"].nunique() > 6
    met = {fault: number for fault, number in proxy.met.items() if fault}
    assert (
        sum(met.values()) == 11
        and proxy.answered == 12 + met["cut"]
        and frame["repeats"].sum() == 11
    )
    assert (
        proxy.busiest <= 4
        and (frame["completion_tokens"] <= 16).all()
        and (frame["prompt_tokens"] > 20).all()
    )
    said = capfd.readouterr()
    assert (
        "12 calls to make" in said.out
        and "sent again 11 times" in said.out
        and nowhere(tmp_path, said.out, said.err)
    )
    assert all(f"Bearer {KEY}".encode() in head for head in proxy.headers)


def begin(url: str, path: Path, condition: str) -> subprocess.Popen[str]:
    prompts = path.with_name("prompts.jsonl")
    PROMPTS.to_json(prompts, orient="records", lines=True)
    settings: dict[str, Any] = {
        "--model": MODEL,
        "--base-url": url,
        "--key-variable": "MY_KEY",
        "--condition": condition,
        "--samples": 3,
        "--prompts": prompts,
        "--output": path,
        "--max-tokens": 16,
        "--concurrency": 2,
    }
    flags = [str(part) for pair in settings.items() for part in pair]
    command = [sys.executable, "-m", "ddpo_utils", "sample", *flags, "--yes"]
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OPENAI_LOG": "debug",
    }  # the library at its most talkative
    return subprocess.Popen(
        command, cwd=path.parent, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("condition", ["plain", "iterative"])
def test_a_killed_process_goes_on_and_pays_for_the_missing_calls_alone(server, tmp_path, condition):
    path = tmp_path / "s.jsonl"
    with FlakyProxy(server, [None, "429", "cut"]) as proxy:
        process = begin(proxy.url, path, condition)
        while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < 4):
            time.sleep(0.02)
        process.kill()
        said = "".join(process.communicate())
        assert process.returncode != 0, said
        stored = read_samples(path)
        while (
            proxy.open
        ):  # calls under way at the kill are answered to nobody: no client can keep those
            time.sleep(0.05)
        lost = proxy.answered - len(stored)
        before = proxy.answered
        process = begin(proxy.url, path, condition)
        said += "".join(process.communicate(timeout=120))
    assert process.returncode == 0, said
    frame = read_samples(path)
    assert 4 <= len(stored) < 12 and 1 <= lost <= 3  # one was cut, and at most two were under way
    assert proxy.answered - before == 12 - len(stored) == len(frame) - len(stored)
    assert not frame.duplicated(["prompt_id", "sample"]).any()
    pd.testing.assert_frame_equal(frame.head(len(stored)), stored)
    delivered = contents(proxy)
    assert all(delivered.count(text) >= list(frame["text"]).count(text) for text in frame["text"])
    assert nowhere(tmp_path, said)


def test_every_condition_gives_a_row_of_the_rivals_table(server, tmp_path):
    paths = []
    for condition in ("plain", "iterative", "verbalised"):
        paths.append(tmp_path / f"{condition}.jsonl")
        sample_endpoint(
            PROMPTS[:2], paths[-1], MODEL, server, condition, 2, source=condition, **FAST
        )
    table = rival_table(read_samples(paths))
    assert (
        table.index.tolist() == ["plain", "iterative", "verbalised"]
        and (table["stories"] == 4).all()
    )
    assert table["calls"].tolist() == [4, 4, 2]
    assert (
        table["semantic"].between(0, 1.5).all()
        and table["unreadable"][["plain", "iterative"]].eq(0).all()
    )
    print(table.T.to_string())
