"""The arms of the training benchmark: DDPOTrainer or TRL's DPOTrainer on a random model."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from keep import status

from ddpo_utils import load_stories
from ddpo_utils.models.policy import choose_dtype, default_device, load_policy, lora_config
from ddpo_utils.settings import Profile, get_profile
from ddpo_utils.training.one_arm import to_dataset, trainer_arguments
from ddpo_utils.training.plan import KNOWN, Architecture
from ddpo_utils.training.reference import add_reference

# name -> (DDPOTrainer or TRL's, reference precomputed or in the loop)
ARMS = {
    "ddpo, precomputed": (True, True),
    "trl, precomputed": (False, True),
    "ddpo, in the loop": (True, False),
    "trl, in the loop": (False, False),
}
MODELS = {
    "llama-3.1-8b": KNOWN["Llama-3.1-8B"],
    "smollm2-135m": KNOWN["SmolLM2-135M"],
    "tiny": Architecture(2, 64, 128, 4, 2, 16, 300, False),
}
# LoRA as large beside a width of 576 as r 128 is beside 4,096
SMALL = {"lora_r": 16, "lora_alpha": 32, "max_length": 128, "batch_size": 1}
STORED = {"gradient_checkpointing": False}
TINY = STORED | {"lora_r": 2, "lora_alpha": 4, "max_length": 128}
CHAT = (
    "{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>{% endif %}"
)


@dataclass(frozen=True)
class Row:
    """One row of the record: a model, where it runs, and what differs from the profile `8b`."""

    what: str
    model: str
    device: str
    settings: dict[str, Any] = field(default_factory=dict)
    turns: int = 6
    steps: int = 3  # a turn


ROWS = {
    "8b-lora": Row("Llama-3.1-8B, LoRA r 128, checkpointing", "llama-3.1-8b", "cuda"),
    "8b-lora-stored": Row("the same, activations stored", "llama-3.1-8b", "cuda", STORED),
    "8b-qlora": Row("8b-lora in nf4 (QLoRA)", "llama-3.1-8b", "cuda", {"quantize": True}),
    "135m-lora": Row("SmolLM2-135M, LoRA r 16", "smollm2-135m", "cpu", SMALL | STORED, 16, 1),
    "135m-lora-checkpointing": Row("with checkpointing", "smollm2-135m", "cpu", SMALL, 16, 1),
    "tiny": Row("two layers of width 64: a test of the benchmark", "tiny", "any", TINY, 2, 2),
}


def row_profile(row: Row, folder: Path) -> Profile:
    """The profile `8b` with the row's settings on the model in `folder`, 2 pairs a step."""
    dtype = str(choose_dtype(default_device())).removeprefix("torch.")
    settings = {"model": str(folder), "tokenizer": str(folder), "dtype": dtype, "data": "bundled"}
    settings |= {"epochs": 1, "steps": 0, "batch_size": 2}
    return get_profile("8b", **settings | row.settings)


def write_model(row: Row, folder: Path) -> None:
    """A random model, a tokenizer of one token a byte, and an adapter; a folder there is kept.

    Speed and memory do not depend on the weights' values.
    """
    from peft import get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    if folder.is_dir():
        return
    part, special = folder.with_name(folder.name + ".part"), ["<|pad|>", "<|start|>", "<|end|>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    by_byte = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    by_byte.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    by_byte.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=by_byte, pad_token=special[0], bos_token=special[1], eos_token=special[2]
    )
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(part)
    torch.manual_seed(0)
    known = MODELS[row.model]
    config = LlamaConfig(
        vocab_size=known.vocabulary,
        hidden_size=known.width,
        intermediate_size=known.inner,
        num_hidden_layers=known.layers,
        num_attention_heads=known.heads,
        num_key_value_heads=known.kv_heads,
        tie_word_embeddings=known.tied,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    profile = row_profile(row, folder)
    with torch.device(default_device()):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, profile.dtype))
    model.save_pretrained(part)
    adapted = get_peft_model(model, lora_config(profile))
    adapted.save_pretrained(part / "adapter", save_embedding_layers=False)
    os.replace(part, folder)


def pairs_of_length(tokens: int, count: int) -> Any:
    """(pairs whose every side fills `tokens` tokens with its prompt, one weight a pair)."""
    import pandas as pd

    text = " ".join(load_stories()["text"]).encode("ascii", "ignore").decode()  # a byte, a token
    text *= 2 + (3 * count + 1) * tokens // len(text)
    rows = []
    for start in range(0, 3 * count * tokens, 3 * tokens):
        prompt, chosen, rejected = (text[start + i * tokens :][:tokens] for i in range(3))
        rows.append((prompt[: tokens // 8], chosen, rejected))
    pairs = pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"])
    return pairs, [0.5 + i % 3 / 2 for i in range(count)]


class Bench:
    """The arms of a row in this process, on one set of pairs."""

    def __init__(self, row: Row, profile: Profile):
        self.profile = profile
        self.folder = tempfile.TemporaryDirectory()
        self.count = profile.batch_size * row.steps  # pairs
        self.trainers: dict[bool, Any] = {}

    def trainer(self, ours: bool) -> Any:
        """(a trainer as `one_arm` would make it, with nothing saved or printed; its data)."""
        from transformers import PrinterCallback
        from trl import DPOConfig, DPOTrainer

        from ddpo_utils import DDPOTrainer

        if ours not in self.trainers:
            adapter = Path(self.profile.model) / "adapter"
            model, tokenizer = load_policy(self.profile, adapter, trainable=True)
            data = to_dataset(*pairs_of_length(self.profile.max_length, self.count))
            data = data.add_column("key", range(self.count))
            options = {"beta": self.profile.beta, "lr_scheduler_type": "linear"}
            folder = Path(self.folder.name)
            args = trainer_arguments(DPOConfig, folder, self.profile, disable_tqdm=True, **options)
            args.save_strategy = "no"
            trainer = (DDPOTrainer if ours else DPOTrainer)(
                model=model,
                args=args,
                train_dataset=data if ours else data.remove_columns("weight"),
                processing_class=tokenizer,
            )
            trainer.remove_callback(PrinterCallback)
            self.trainers[ours] = trainer, trainer.train_dataset
        return self.trainers[ours]

    def step(self, arm: str) -> tuple[float, float]:
        """Seconds a pair of the training loop, on the clock and of the processor."""
        from transformers import TrainerCallback

        marks = []

        class Clock(TrainerCallback):
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                marks.append(now())

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                marks.append(now())

        ours, precomputed = ARMS[arm]
        trainer, data = self.trainer(ours)
        if precomputed:  # no step's time depends on the values
            for name in ("ref_chosen_logps", "ref_rejected_logps"):
                data = data.add_column(name, [0.0] * self.count)
        trainer.train_dataset = data
        trainer.precompute_ref_logps = precomputed and not ours  # as TRL's constructor sets it
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
        trainer.remove_callback(clock)
        return self.seconds(marks[0], marks[-1])

    def reference(self) -> tuple[float, float]:
        """Seconds a pair that `add_reference` takes."""
        trainer, trainer.train_dataset = self.trainer(True)
        with tempfile.TemporaryDirectory() as folder:
            start = now()
            add_reference(trainer, Path(folder) / "reference.csv")
            return self.seconds(start, now())

    def seconds(self, start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
        return (end[0] - start[0]) / self.count, (end[1] - start[1]) / self.count


def now() -> tuple[float, float]:
    """Clock and processor time in seconds, when the device has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def peak_memory(name: str, folder: Path, arm: str) -> int:
    """Bytes at the peak of a short training of the arm; called in a fresh process.

    On a GPU what torch's allocator held, on a CPU (Linux) the process's resident memory.
    """
    bench = Bench(ROWS[name], row_profile(ROWS[name], folder))
    bench.trainer(ARMS[arm][0])
    gc.collect()
    with suppress(OSError):  # the peak starts anew, without what loading took
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    bench.step(arm)
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else status("VmHWM")
