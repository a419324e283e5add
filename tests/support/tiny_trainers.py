"""What the trainers' tests share: pairs, trainers of any class, a loss with its gradients."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from packaging.version import Version
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MixtralConfig,
    MixtralForCausalLM,
    TrainerCallback,
)
from trl import DPOConfig
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from ddpo_utils.trainers import DDPOTrainer, DORPOTrainer

WORDS = ["the", "light", "answers", "someone", "far", "at", "sea", "nobody", "remembers"]
SETTINGS = {
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
OLD_TRL = Version(version("trl")) < Version("1.15")  # DORPOTrainer cannot use it
TRAINERS = [DDPOTrainer] if OLD_TRL else [DDPOTrainer, DORPOTrainer]
SETUPS = ["fresh adapter", "re-trained adapter", "full model"]
if not OLD_TRL:  # whose own trainer fails with them
    SETUPS.append("virtual tokens")
LORA = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")


class Gradients(TrainerCallback):
    """The gradients before the first step."""

    def __init__(self) -> None:
        self.first: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self.first = self.first or gradients_of(model)


class Spy(DDPOTrainer):
    """Keeps the chosen side's tokens and the weight of each pair that the loss saw."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any) -> Any:
        self.seen = getattr(self, "seen", [])
        for ids, mask, weight in zip(
            inputs["input_ids"], inputs["attention_mask"], inputs["weight"], strict=False
        ):
            self.seen.append((tuple(ids[mask.bool()].tolist()), round(weight.item(), 4)))
        return super()._compute_loss(model, inputs, *args)


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def preference_data(n: int = 8, weights: Any = 1.0, chat: bool = False) -> Dataset:
    """Pairs of unequal lengths, one prompt of one token; weights: a list, one number or None."""

    def text(role: str, i: int, length: int) -> Any:
        content = " ".join(WORDS[(i + j) % len(WORDS)] for j in range(length)) + f" {i}"
        if chat:
            return [{"role": role, "content": content}]
        return content if role == "user" else f" {content}"

    columns: dict[str, list[Any]] = {
        "prompt": ["a" if i == 1 and not chat else text("user", i, 3 + i % 3) for i in range(n)],
        "chosen": [text("assistant", i + 1, 2 + (5 * i) % 7) for i in range(n)],
        "rejected": [text("assistant", i + 2, 2 + (3 * i) % 5) for i in range(n)],
    }
    if weights is not None:
        columns["weight"] = weights if isinstance(weights, list) else [weights] * n
    return Dataset.from_dict(columns)


def policy_of(setup: str, model: Any, adapter_folder: Path) -> tuple[Any, dict[str, Any]]:
    """The policy of one of SETUPS, and what else its trainer is given."""
    if setup == "fresh adapter":
        return model, {"peft_config": LORA}
    if setup == "virtual tokens":
        virtual = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
        return model, {"peft_config": virtual}
    if setup == "re-trained adapter":
        return PeftModel.from_pretrained(model, str(adapter_folder), is_trainable=True), {}
    return model, {}


def mixture_policy(tiny_folder: Path) -> Any:
    """A tiny mixture of experts, whose router has a loss, under a moved adapter."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4}
    router = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
    vocabulary = len(AutoTokenizer.from_pretrained(tiny_folder))
    config = MixtralConfig(vocab_size=vocabulary, **sizes, **heads, **router)
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    policy = get_peft_model(MixtralForCausalLM(config), lora)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return policy


def maker(tiny_folder: Path, adapter_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Makes a trainer over the tiny model, its policy moved away from the reference.

    `setup` is one of SETUPS, or a policy that is trained as it is.
    """

    def build(
        cls: type, data: Any, setup: Any = "fresh adapter", spy: Any = None, **options: Any
    ) -> Any:
        torch.manual_seed(7)
        named = ("eval_dataset", "callbacks", "compute_metrics")
        parts = {name: options.pop(name) for name in named if name in options}
        orpo = issubclass(cls, ORPOTrainer)
        models = [AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)]
        if setup == "full model" and not orpo and not options.get("precompute_ref_log_probs"):
            models.append(AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32))
            parts["ref_model"] = models[1]
        for model in models:
            if spy is not None:
                # the decoder's: PEFT may call the outer model's `forward`, which runs no hook
                model.get_decoder().register_forward_pre_hook(spy, with_kwargs=True)
        policy, adapter = setup, {}
        if isinstance(setup, str):
            policy, adapter = policy_of(setup, models[0], adapter_folder)
        trainer = cls(
            model=policy,
            args=(ORPOConfig if orpo else DPOConfig)(
                output_dir=str(tmp_path / "out"), **SETTINGS | options
            ),
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(tiny_folder),
            **adapter | parts,
        )
        noise = torch.Generator().manual_seed(11)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad and isinstance(setup, str):
                move = 0.05 * torch.randn(parameter.shape, generator=noise)
                parameter.data += move.to(parameter.device)
        return trainer

    return build


def loss_and_gradients(trainer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.train()
    trainer.model.zero_grad()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), gradients_of(trainer.model)


def assert_close(
    a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], scale: float = 1.0
) -> None:
    """Equal gradients, to float32's rounding of each matrix's largest entry."""
    assert a.keys() == b.keys() and a
    assert max(g.abs().max().item() for g in b.values()) > 1e-4, "no gradient to compare"
    for name in a:
        tolerance = 1e-5 * scale * b[name].abs().max().item() + 1e-8
        assert torch.allclose(a[name], scale * b[name], rtol=0, atol=tolerance), name
