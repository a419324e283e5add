"""A real OpenAI-compatible server on this machine: `transformers serve` with SmolLM2."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pytest
from flaky_proxy import FlakyProxy

from ddpo_utils.models.sampling import read_samples
from ddpo_utils.models.smollm2 import cache_dir, fetch_smollm2

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-distinctive-8e02b7aa"
MODEL = "SmolLM2"
USER_CACHE = cache_dir()  # the user's; each test gets an empty one


@contextmanager
def serving(folder: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """Address of `transformers serve`, run in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from transformers.cli.transformers import main; main()"
    place = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    command = [sys.executable, "-c", code, "serve", *arguments, *place]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    started, end = False, time.monotonic() + 600  # a busy machine takes minutes
    try:
        while not started:
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.2)
            with suppress(OSError):
                direct.open(f"http://127.0.0.1:{port}/health")
                started = True
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with SmolLM2, set to sample."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(fetch_smollm2(USER_CACHE), folder / MODEL)
    config = folder / MODEL / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"do_sample": True}))
    with serving(folder, MODEL) as address:
        yield address


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def nowhere(folder: Path, *texts: str) -> bool:
    """Whether the key is in no file below the folder and in none of the texts."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    hidden = not any(KEY.encode() in data for data in files)
    return bool(files) and hidden and not any(KEY in text for text in texts)


def received(proxy: FlakyProxy) -> list[str]:
    """The texts of all answers that went out whole."""
    return [answer["choices"][0]["message"]["content"].strip() for answer in proxy.delivered]


def kill_and_repeat(
    proxy: FlakyProxy, command: list[str], answers: Path, at: int, total: int
) -> tuple[pd.DataFrame, str]:
    """Run a command twice, the first time until `at` answers are stored; all answers, and output.

    Nothing that was stored before the kill is paid for again, and no file or output has the key.
    """
    flags = ["--model", MODEL, "--base-url", proxy.url, "--key-variable", "MY_KEY"]
    flags += ["--concurrency", "2", "--max-tokens", "16", "--yes"]
    run = {
        "args": [sys.executable, "-m", "ddpo_utils", *command, *flags],
        "cwd": answers.parent,
        "env": os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_LOG": "debug"},
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
    }
    process = subprocess.Popen(**run)
    while process.poll() is None:
        if answers.exists() and answers.read_bytes().count(b"\n") >= at:
            break
        time.sleep(0.02)
    process.kill()
    printed = process.communicate()[0]
    assert process.returncode != 0, printed
    while proxy.open:  # no client can keep an answer that was under way at the kill
        time.sleep(0.05)
    stored, before = read_samples(answers), proxy.answered
    assert at <= len(stored) < total, printed
    process = subprocess.Popen(**run)
    printed += process.communicate(timeout=1800)[0]
    assert process.returncode == 0, printed
    frame = read_samples(answers)
    assert len(frame) == total and proxy.answered - before == total - len(stored)
    assert not frame.duplicated(["prompt_id", "sample"]).any()
    pd.testing.assert_frame_equal(frame.head(len(stored)), stored)
    assert not Counter(frame["text"]) - Counter(received(proxy))
    assert nowhere(answers.parent, printed)
    assert all(f"Bearer {KEY}".encode() in head for head in proxy.headers)
    return frame, printed
