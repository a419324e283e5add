"""What the tests share: a private cache, no hub, and a Llama of a few thousand parameters."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ddpo_utils.course.notebooks import QUIET
from ddpo_utils.settings import SLEEPING, CourseError, data_dir

# Before torch and the hub's libraries read them: no bars, no network, no spinning threads.
os.environ |= (
    SLEEPING | dict(os.environ) | QUIET | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
)
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # workers share the cores
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import numpy as np
from hypothesis import settings
from teller import Teller
from tiny_llama import write_llama

settings.register_profile("course", deadline=None)  # busy machines are slow
settings.load_profile("course")

CHAT = (
    "{% for m in messages %}"
    "{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
LINES = [
    "The lighthouse keeper finds that the light has been answering someone far out at sea.",
    "A town wakes up to learn that every clock has stopped, and nobody remembers why.",
    'She wrote: "don\'t open the door" - then, of course, he opened the door!',
    "Nothing happened in 1911; nothing ever happens. Élodie laughed — 🙂.",
]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo) -> Generator[None, Any, Any]:
    """A wheel leaves out the recorded runs: tests that miss a file of theirs are skipped there."""
    report = yield
    fault, data = call.excinfo and call.excinfo.value, data_dir()
    missing = isinstance(fault, (CourseError, FileNotFoundError)) and str(data) in str(fault)
    if report.failed and missing and not (data / "results").exists():
        report.outcome = "skipped"
        report.longrepr = (report.fspath, report.location[1], "needs a clone's recorded runs")
    return report


@pytest.fixture(autouse=True)
def private_surroundings(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """No variable of the user's shell reaches a test, and no test writes into the user's cache."""
    for name in ("DDPO_PROFILE", "DDPO_MODEL"):
        monkeypatch.delenv(name, raising=False)
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("DDPO_CACHE", str(cache))
    return cache


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama and a byte-level tokenizer; its pad token is not its end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(LINES * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|start|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        padding_side="left",
    )
    tokenizer.chat_template = CHAT
    return write_llama(tmp_path_factory.mktemp("models") / "tiny", tokenizer)


@pytest.fixture
def tiny(tiny_folder: Path):
    """A fresh (model in float32 and eval mode, tokenizer); both may be changed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def adapter_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a LoRA adapter of the tiny model whose B is not zero, as after some training."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("adapters") / "first"
    model.save_pretrained(folder)
    return folder


class FakeEncoder:
    """An encoder with a row for each text it knows, and a count of the texts it was asked for."""

    def __init__(self, rows: dict[str, list[float]]):
        self.rows, self.asked = rows, []

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        assert isinstance(sentences, list) and normalize_embeddings is True
        self.asked += sentences
        return np.array([self.rows[text] for text in sentences], dtype=np.float32)


@pytest.fixture
def fake_encoder() -> type[FakeEncoder]:
    return FakeEncoder


@pytest.fixture
def teller(monkeypatch: pytest.MonkeyPatch) -> Iterator[Teller]:
    """A server for tests of endpoints; no key or other setting of the user's shell reaches it."""
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_LOG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Teller()
    yield server
    server.close()


@pytest.fixture
def make(tiny_folder: Path, adapter_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Makes a trainer of any class over the tiny model: see `tiny_trainers.maker`."""
    from tiny_trainers import maker

    return maker(tiny_folder, adapter_folder, tmp_path)
