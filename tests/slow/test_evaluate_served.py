"""A real server with the tiny model and its adapters: it tells what the local models tell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluated import as_flags
from flaky_proxy import FlakyProxy
from serve_fixtures import ROOT, nowhere, serving
from teller import PROMPTS

from ddpo_utils.evaluation.evaluate import find_adapters
from ddpo_utils.models.calls import SERVE
from ddpo_utils.models.endpoint import Endpoint, served_models
from ddpo_utils.models.policy import load_policy, load_stops
from ddpo_utils.models.sampling import complete, read_samples, sample_served

pytest_plugins = ["evaluation_fixtures", "serve_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("surroundings")]

ROWS = ("start", "sft", "ddpo")
COMMIT = "0" * 40


@pytest.fixture(scope="module")
def address(
    tiny_folder: Path, adapters: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """`transformers serve`, to which an adapter beside its model's configuration is a model."""
    folder = tmp_path_factory.mktemp("hub")
    for row in ROWS:
        place = folder / f"models--{row}"
        snapshot = Path(shutil.copytree(tiny_folder, place / "snapshots" / COMMIT))
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)
        if row != "start":
            (snapshot / "model.safetensors").unlink()
            shutil.copytree(adapters / row, snapshot, dirs_exist_ok=True)
    with serving(tmp_path_factory.mktemp("empty"), HF_HUB_CACHE=str(folder)) as url:
        yield url


def test_it_tells_what_the_local_models_tell(address, profile, adapters, tmp_path):
    """Under top_k 1, where sampling has one outcome; chat template and end are the same, then."""
    found = {row: find_adapters(adapters)[row] for row in ROWS}
    engine, names = served_models(Endpoint("-", address), found)
    assert engine == SERVE and names == {row: row for row in ROWS}
    greedy = {"do_sample": True, "top_k": 1, "repetition_penalty": 1.1}
    told, ends = {}, set()
    for row, adapter in found.items():
        model, tokenizer = load_policy(profile, adapter)
        assert load_stops(profile)[1] == model.generation_config.eos_token_id
        (first,) = complete(model, tokenizer, PROMPTS["prompt"][:1], 40, **greedy)
        end = tokenizer(first["text"], add_special_tokens=False)["input_ids"][9]
        stops = [*model.generation_config.eos_token_id, end]  # random weights never end an answer
        model.generation_config.eos_token_id = stops
        right = []
        for prompt in PROMPTS["prompt"]:  # one by one: padding changes no rounding
            (answer,) = complete(model, tokenizer, [prompt], 40, **greedy)
            left_in = tokenizer.decode([end] if answer["finished"] else [])
            length = answer["tokens"] + answer["finished"]
            right.append([_bare(answer["text"] + left_in), answer["finished"], length])
            ends.add(answer["finished"])
        path, endpoint = tmp_path / f"{row}.jsonl", Endpoint(row, address)
        sample_served(endpoint, engine, tokenizer, stops, PROMPTS, path, 1, 40, top_k=1)
        served = read_samples(path).assign(text=lambda frame: frame["text"].map(_bare))
        assert served[["text", "finished", "tokens"]].to_numpy().tolist() == right
        told[row] = served["text"].tolist()
    assert told["start"] != told["sft"] != told["ddpo"] and ends == {True, False}


def _bare(text: str) -> str:
    return "".join(text.split())


def test_a_killed_evaluation_goes_on_and_pays_for_the_missing_calls_only(
    address, profile, adapters, tmp_path
):
    mine = tmp_path / "adapters"
    for row in ROWS[1:]:
        shutil.copytree(adapters / row, mine / row)
    with FlakyProxy(address, ["drop", "drop", None, "429", "500", "cut"]) as proxy:
        flags = ["--base-url", proxy.url, "--key-variable", "MY_KEY", "--concurrency", "2"]
        command = ["evaluate", *as_flags(profile), "--adapters", str(mine), "--output", "out"]
        run = {
            "args": [sys.executable, "-m", "ddpo_utils", *command, *flags],
            "cwd": tmp_path,
            "env": os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_LOG": "debug"},
            "text": True,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
        }
        process = subprocess.Popen(**run)
        stored = 0
        while process.poll() is None and stored < 20:
            time.sleep(0.02)
            files = [path.read_bytes() for path in tmp_path.glob("out/*.jsonl")]
            stored = sum(data.count(b"\n") for data in files)
        process.kill()
        printed = process.communicate()[0]
        assert stored >= 20, printed
        while proxy.open:
            time.sleep(0.05)
        frames = [read_samples(path) for path in tmp_path.glob("out/*.jsonl")]
        stored, before = sum(map(len, frames)), proxy.answered
        process = subprocess.Popen(**run)
        printed += process.communicate(timeout=1800)[0]
        assert process.returncode == 0, printed
        assert stored < 45 and proxy.answered - before == 45 - stored
        received = Counter(reply["choices"][0]["text"].strip() for reply in proxy.delivered)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    host = proxy.url.removeprefix("http://").removesuffix("/v1")
    assert results["served"] == {row: [f"{row} at {host} ({SERVE})"] for row in ROWS}
    for file in results["files"].values():
        frame = read_samples(tmp_path / "out" / file)
        assert len(frame) == 15 and not Counter(frame["text"]) - received
    assert results["rows"]["ddpo"]["means"]["kl"]["mean"] > 0
    assert nowhere(tmp_path, printed)
