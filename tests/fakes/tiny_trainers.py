"""What the tests of DDPOTrainer share: pairs, trainers of either class, a loss with its gradients, a spy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, PromptTuningConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig

from ddpo_utils.trainers import DDPOTrainer

WORDS = [
    "the",
    "light",
    "answers",
    "someone",
    "far",
    "at",
    "sea",
    "and",
    "nobody",
    "remembers",
    "why",
    "every",
]

SETTINGS = {  # of a trainer whose every number is looked at
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "max_length": 64,
    "beta": 0.3,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "max_grad_norm": 0.0,
}
WEIGHTS = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0]  # of eight pairs
FAULTY_WEIGHTS = [
    (None, "no column 'weight'"),
    ([1.0, -0.5, 1.0], r"weight of pair 1 is -0\.5"),
    ([1.0, 1.0, float("nan")], "weight of pair 2 is nan"),
    ([float("inf"), 1.0, 1.0], "weight of pair 0 is inf"),
    ([1.0, None, 1.0], "weight of pair 1 is None"),
    (["1", "1", "1"], "weight of pair 0 is '1'"),
    ([[1.0], [1.0], [1.0]], r"weight of pair 0 is \[1\.0\]"),
]


class Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.first: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        if not self.first:
            self.first = {
                n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
            }


def make_pairs(n: int = 8, weights: list[Any] | float | None = 1.0, chat: bool = False) -> Dataset:
    """Pairs of unequal lengths, each with a text of its own."""

    def text(role: str, i: int, words: int) -> Any:
        content = " ".join(WORDS[(i + j) % len(WORDS)] for j in range(words)) + f" {i}"
        return (
            [{"role": role, "content": content}]
            if chat
            else ("" if role == "user" else " ") + content
        )

    columns: dict[str, list[Any]] = {
        "prompt": [text("user", i, 3 + i % 3) for i in range(n)],
        "chosen": [text("assistant", i + 1, 2 + (5 * i) % 7) for i in range(n)],
        "rejected": [text("assistant", i + 2, 2 + (3 * i) % 5) for i in range(n)],
    }
    if weights is not None:
        columns["weight"] = weights if isinstance(weights, list) else [weights] * n
    return Dataset.from_dict(columns)


SETUPS = ["fresh adapter", "re-trained adapter", "full model", "virtual tokens"]


def maker(tiny_folder: Path, adapter_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Makes a trainer of either class over the tiny model, its policy moved away from the reference."""

    def build(
        cls: type,
        data: Any,
        setup: str = "fresh adapter",
        move: bool = True,
        spy: Any = None,
        **options: Any,
    ):
        torch.manual_seed(7)
        load = lambda: AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        model, more = (
            load(),
            {k: options.pop(k) for k in ("eval_dataset", "callbacks", "ref_model") if k in options},
        )
        if spy is not None:
            model.register_forward_pre_hook(spy, with_kwargs=True)
        if setup == "fresh adapter":
            more["peft_config"] = LoraConfig(
                r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM"
            )
        elif setup == "virtual tokens":
            more["peft_config"] = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
        elif setup == "re-trained adapter":
            model = PeftModel.from_pretrained(model, str(adapter_folder), is_trainable=True)
        elif not options.get("precompute_ref_log_probs"):
            more["ref_model"] = load()
            if spy is not None:
                more["ref_model"].register_forward_pre_hook(spy, with_kwargs=True)
        trainer = cls(
            model=model,
            args=DPOConfig(output_dir=str(tmp_path / "out"), **SETTINGS | options),
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(tiny_folder),
            **more,
        )
        if move:
            noise = torch.Generator().manual_seed(11)
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.05 * torch.randn(parameter.shape, generator=noise)
        return trainer

    return build


def loss_and_gradients(trainer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.train()
    trainer.model.zero_grad()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {
        n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None
    }


def assert_close(
    a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], scale: float = 1.0
) -> None:
    assert a.keys() == b.keys() and a
    assert max(g.abs().max().item() for g in b.values()) > 1e-4, "no gradient to compare"
    for name in a:  # float tolerance: of the matrix's largest entry, since small ones are differences of large ones
        within = 1e-5 * scale * b[name].abs().max().item() + 1e-9
        assert torch.allclose(a[name], scale * b[name], rtol=0, atol=within), name


class Spy(DDPOTrainer):
    """Keeps what each call of the loss saw: the chosen side's tokens and the weight, pair by pair."""

    def _compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False
    ) -> Any:
        half = len(inputs["input_ids"]) // 2
        for ids, mask, w in zip(
            inputs["input_ids"], inputs["attention_mask"][:half], inputs["weight"], strict=False
        ):
            self.seen = [
                *getattr(self, "seen", []),
                (tuple(ids[mask.bool()].tolist()), round(w.item(), 4)),
            ]
        return super()._compute_loss(model, inputs, return_outputs)
