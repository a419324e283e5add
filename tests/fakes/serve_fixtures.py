"""A real OpenAI-compatible server on this machine: `transformers serve` with SmolLM2."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddpo_utils.models.smollm2 import cache_dir, fetch_smollm2

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-distinctive-8e02b7aa"
MODEL = "SmolLM2"
USER_CACHE = (
    cache_dir()
)  # as the module is read: tests themselves get a cache of their own, which is empty


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `transformers serve` with SmolLM2, which samples (its own settings would be greedy)."""
    folder = tmp_path_factory.mktemp("served")
    (folder / MODEL).mkdir()
    for file in fetch_smollm2(USER_CACHE).iterdir():
        if file.name != "generation_config.json":
            (folder / MODEL / file.name).symlink_to(file)
    config = json.loads((fetch_smollm2(USER_CACHE) / "generation_config.json").read_text()) | {
        "do_sample": True
    }
    (folder / MODEL / "generation_config.json").write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from transformers.cli.transformers import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "serve",
        MODEL,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        for _ in range(3000):  # a busy machine takes minutes
            assert process.poll() is None, (folder / "log").read_text()
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    f"http://127.0.0.1:{port}/health"
                )
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail(f"The server did not start: {(folder / 'log').read_text()}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def nowhere(folder: Path, *texts: str) -> bool:
    """Whether the key is in no file below the folder and in none of the texts."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return (
        bool(files)
        and not any(KEY.encode() in data for data in files)
        and not any(KEY in text for text in texts)
    )
