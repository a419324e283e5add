"""The arms that the training benchmark compares: a random model of an exact architecture, loaded and trained by the
package's own functions, with DDPOTrainer or with TRL's unmodified DPOTrainer."""

from __future__ import annotations

import gc
import io
import os
import tempfile
import time
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from keep import status

from ddpo_utils.models.policy import choose_dtype, default_device, load_policy, lora_config
from ddpo_utils.settings import Profile, get_profile
from ddpo_utils.training.architecture import KNOWN
from ddpo_utils.training.recipes import trainer_arguments
from ddpo_utils.training.reference import add_reference

# Beyond the sizes, what the published configurations say of positions (their config.json); it decides no speed.
ROPE = {
    "Llama-3.1-8B": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "SmolLM2-135M": {"rope_type": "default", "rope_theta": 100000.0},
}


def _sizes(name: str) -> dict[str, Any]:
    """Of the package's table of architectures, as LlamaConfig calls them."""
    known = KNOWN[name]
    return {
        "vocab_size": known.vocabulary,
        "hidden_size": known.width,
        "intermediate_size": known.inner,
        "num_hidden_layers": known.layers,
        "num_attention_heads": known.heads,
        "num_key_value_heads": known.kv_heads,
        "tie_word_embeddings": known.tied,
        "rms_norm_eps": 1e-5,
        "rope_parameters": ROPE[name],
        "max_position_embeddings": 131072 if name == "Llama-3.1-8B" else 8192,
    }


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": _sizes("Llama-3.1-8B"),
    "smollm2-135m": _sizes("SmolLM2-135M"),
    "tiny": {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    },
}

# LoRA as large beside a width of 576 as r 128 is beside 4,096: 0.7% of the weights that are multiplied
SMALL = {
    "lora_r": 16,
    "lora_alpha": 32,
    "max_length": 128,
    "batch_size": 1,
    "gradient_checkpointing": False,
}


@dataclass(frozen=True)
class Row:
    """One line of the record: an architecture, where it runs, and what differs from the profile `8b`."""

    what: str
    model: str
    device: str
    settings: dict[str, Any] = field(default_factory=dict)
    turns: int = 6
    steps: int = 3  # a turn


ROWS = {
    "8b-lora": Row(
        "Llama-3.1-8B, bf16, LoRA r 128, 2,048 tokens, checkpointing", "llama-3.1-8b", "cuda"
    ),
    "8b-lora-stored": Row(
        "the same, activations stored instead of recomputed",
        "llama-3.1-8b",
        "cuda",
        {"gradient_checkpointing": False},
    ),
    "8b-qlora": Row(
        "the same as 8b-lora with weights in nf4 (QLoRA)",
        "llama-3.1-8b",
        "cuda",
        {"quantize": True},
    ),
    "135m-lora": Row(
        "SmolLM2-135M, LoRA r 16, 128 tokens, activations stored",
        "smollm2-135m",
        "cpu",
        SMALL,
        16,
        1,
    ),
    "135m-lora-checkpointing": Row(
        "the same with checkpointing",
        "smollm2-135m",
        "cpu",
        SMALL | {"gradient_checkpointing": True},
        16,
        1,
    ),
    "tiny": Row(  # checks the benchmark itself
        "two layers of width 64",
        "tiny",
        "any",
        SMALL | {"lora_r": 2, "lora_alpha": 4, "max_length": 64},
        2,
        1,
    ),
}

# name: (DDPOTrainer or else TRL's DPOTrainer, the reference's log-probs precomputed or else by its adapter, per batch)
ARMS = {
    "ddpo, precomputed": (True, True),
    "trl, precomputed": (False, True),
    "ddpo, in the loop": (
        True,
        False,
    ),  # also how the paper's authors arrange it: a frozen copy of the SFT adapter
    "trl, in the loop": (False, False),
}


def row_profile(row: Row, folder: Path, dtype: str) -> Profile:
    """The profile `8b` with the row's settings, on the model in `folder`; one micro-batch of at most 2 pairs a step."""
    own = {
        "model": str(folder),
        "tokenizer": str(folder),
        "dtype": dtype,
        "data": "bundled",
        "epochs": 1,
    }
    return get_profile("8b", **own | {"batch_size": 2} | row.settings)


def number_name() -> str:
    """The type of the weights, chosen as the package does, by its name."""
    return str(choose_dtype(default_device())).removeprefix("torch.")


def write_model(row: Row, folder: Path, dtype: str, seed: int = 0) -> None:
    """A random model of the row's architecture, a tokenizer of one token a byte, and a fresh adapter, in `folder`.

    They go through files because 4-bit weights are made while loading. An existing folder is kept.
    """
    from peft import get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    if folder.is_dir():
        return
    part = folder.with_name(folder.name + ".part")
    special = ["<|pad|>", "<|start|>", "<|end|>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    by_byte = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    by_byte.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    by_byte.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=by_byte, pad_token=special[0], bos_token=special[1], eos_token=special[2]
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>{% endif %}"
    )
    tokenizer.save_pretrained(part)
    torch.manual_seed(seed)
    config = LlamaConfig(**ARCHITECTURES[row.model], bos_token_id=1, eos_token_id=2, pad_token_id=0)
    with torch.device(default_device()):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(part)
    adapted = get_peft_model(model, lora_config(row_profile(row, folder, dtype)))
    adapted.save_pretrained(part / "adapter", save_embedding_layers=False)
    os.replace(part, folder)


def pairs_of_length(tokens: int, count: int) -> Any:
    """Pairs of the bundled stories, run together until every side with its prompt fills `tokens` tokens, weights too.

    Returns:
        A frame like `corpus.make_pairs`', and one weight a pair.
    """
    import pandas as pd

    from ddpo_utils import load_stories

    text = (
        " ".join(load_stories()["text"]).encode("ascii", "ignore").decode()
    )  # one byte, one token
    part = lambda i: (text * (1 + i * tokens // len(text)))[i * tokens % len(text) :][:tokens]
    rows = [(part(3 * i)[: tokens // 8], part(3 * i + 1), part(3 * i + 2)) for i in range(count)]
    return pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"]), [
        0.5 + i % 3 / 2 for i in range(count)
    ]


class Bench:
    """The arms of one row in this process, on one set of pairs; a trainer and its model are made when first needed."""

    def __init__(self, row: Row, profile: Profile):
        self.row, self.profile = row, profile
        self.count = profile.batch_size * row.steps  # pairs
        self.trainers: dict[bool, Any] = {}

    def trainer(self, ours: bool) -> Any:
        """DDPOTrainer or TRL's DPOTrainer as `recipes.train_pairs` would make it, with nothing saved or printed."""
        if ours not in self.trainers:
            from transformers import PrinterCallback
            from trl import DPOConfig, DPOTrainer

            from ddpo_utils import DDPOTrainer
            from ddpo_utils.training.recipes import to_dataset

            profile = self.profile
            model, tokenizer = load_policy(
                profile, adapter=Path(profile.model) / "adapter", trainable=True
            )
            data = to_dataset(*pairs_of_length(profile.max_length, self.count)).add_column(
                "key", range(self.count)
            )
            args = trainer_arguments(
                DPOConfig,
                Path(tempfile.gettempdir()) / "ddpo-benchmark",
                profile,
                profile.batch_size,
                profile.micro_batch,
                learning_rate=profile.learning_rate,
                beta=profile.beta,
                num_train_epochs=1,
                lr_scheduler_type="linear",
                disable_tqdm=True,
            )
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
        """Seconds a pair, on the clock and of the processor, from the loop's begin to the end of its last step."""
        from transformers import TrainerCallback

        marks = []

        class Clock(TrainerCallback):
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                marks.append(now())

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                marks.append(now())

        ours, precomputed = ARMS[arm]
        trainer, data = self.trainer(ours)
        for name in ("ref_chosen_logps", "ref_rejected_logps") if precomputed else ():
            data = data.add_column(
                name, [0.0] * self.count
            )  # no step's time depends on their values
        trainer.train_dataset = data
        trainer.precompute_ref_logps = (
            precomputed and not ours
        )  # what TRL's constructor sets from its arguments
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
        trainer.remove_callback(clock)
        return tuple(
            (end - start) / self.count for start, end in zip(marks[0], marks[-1], strict=True)
        )

    def reference(self) -> tuple[float, float]:
        """Seconds a pair that `reference.add_reference` takes."""
        trainer, trainer.train_dataset = self.trainer(True)
        with (
            tempfile.TemporaryDirectory() as folder,
            redirect_stderr(io.StringIO()),
        ):  # its progress bar
            start = now()
            add_reference(trainer, Path(folder) / "reference.csv")
            return tuple(
                (end - begin) / self.count for begin, end in zip(start, now(), strict=True)
            )


def now() -> tuple[float, float]:
    """Clock and processor time in seconds, when the device has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def peak_memory(name: str, folder: Path, dtype: str, arm: str) -> int | None:
    """Bytes at the peak of one short training of this arm; called in a fresh process.

    On a GPU what torch's allocator held, on a CPU the process's resident memory; None where the system keeps no peak.
    """
    bench = Bench(ROWS[name], row_profile(ROWS[name], folder, dtype))
    bench.trainer(ARMS[arm][0])
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # Linux: the peak starts anew, without what loading took
    bench.step(arm)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError, StopIteration):
        return status("VmHWM")
    return None
