"""DDPOTrainer: TRL's DPOTrainer with one multiplication, fed by a `weight` column.

Not to be confused with the `DDPOTrainer` TRL once had (denoising diffusion policy optimisation).
"""

from __future__ import annotations

from typing import Any

import torch
from trl import DPOTrainer

from .losses import check_weights, pair_losses

__all__ = ["DDPOTrainer", "WeightedCollator", "check_columns"]


class WeightedCollator:
    """Any pair collator, plus the pairs' weights as a float32 tensor `weight` (B,)."""

    def __init__(self, collator: Any):
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        weights = check_weights([example.get("weight") for example in examples])
        bare = [
            {key: value for key, value in example.items() if key != "weight"}
            for example in examples
        ]
        return {**self.collator(bare), "weight": torch.tensor(weights, dtype=torch.float32)}


class DDPOTrainer(DPOTrainer):
    """DPO with each pair's loss multiplied by its `weight`: the mean over the batch of w_i * DPO_i.

    Takes what `trl.DPOTrainer` takes; `train_dataset` (and `eval_dataset`) carry a `weight` column of finite
    numbers, at least 0. They may bring `ref_chosen_logps` and `ref_rejected_logps` computed before, as columns, with
    precompute_ref_log_probs left False; then no reference is run. With weights of 1 loss and gradients are TRL's.
    `loss_type` may be "sigmoid" (DPO) or ["sigmoid", "sft"] with `loss_weights`; the chosen side's NLL is weighted
    by pair as well, sum_i w_i NLL_i / sum_i T_i, which is TRL's token mean where every weight is 1.

    Raises:
        ValueError: when it is made, if a weight is missing, negative or not finite, or the configuration asks for
            a loss that these weights are not defined for.

    Source: Chung et al., arXiv 2503.17126, section 3; Rafailov et al., arXiv 2305.18290, equation 7.
    """

    _tag_names = ["trl", "dpo", "ddpo"]

    def __init__(self, model: Any, ref_model: Any = None, args: Any = None, **kwargs: Any):
        loss_types = (
            []
            if args is None
            else [args.loss_type]
            if isinstance(args.loss_type, str)
            else args.loss_type
        )
        plain = {
            "f_divergence_type": "reverse_kl",
            "ld_alpha": None,
            "use_weighting": False,
            "label_smoothing": 0.0,
        }
        odd = [
            name
            for name, value in plain.items()
            if args is not None and getattr(args, name) != value
        ]
        if odd or not set(loss_types) <= {"sigmoid", "sft"}:
            raise ValueError(
                f"DDPOTrainer weights the losses 'sigmoid' and 'sft' alone; drop {odd or loss_types}."
            )
        check_columns(kwargs)
        super().__init__(model, ref_model, args, **kwargs)
        if self.aux_loss_enabled:
            raise ValueError(
                "DDPOTrainer does not weight a router's auxiliary loss: set router_aux_loss_coef=0."
            )
        self.data_collator = WeightedCollator(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "weight" not in self._signature_columns:
            self._signature_columns.append("weight")  # else Trainer drops the column

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        # an unknown key would travel on to the model, and Llama swallows it silently
        return super().compute_ref_log_probs(
            model, {k: v for k, v in inputs.items() if k != "weight"}
        )

    def _compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False
    ) -> Any:
        inputs = dict(inputs)
        weight = inputs.pop("weight")
        mask = inputs["completion_mask"][:, 1:]
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        known = {"completion_mask", "ref_chosen_logps", "ref_rejected_logps"}
        batch = {k: v for k, v in inputs.items() if k not in known}
        outputs = model(**batch, use_cache=False, labels=labels, fused_lm_head=True)
        per_token = outputs.log_probs[
            :, -mask.size(1) :
        ]  # prompt-learning adapters put virtual tokens in front
        chosen, rejected = per_token.sum(dim=1).chunk(2)
        if "ref_chosen_logps" in inputs:  # precomputed by TRL, or brought along in the dataset
            ref_chosen, ref_rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            ref_chosen, ref_rejected = self.compute_ref_log_probs(
                self.ref_model or self.model, inputs
            )

        loss = 0.0
        for loss_type, scale in zip(self.loss_types, self.loss_weights, strict=True):
            if loss_type == "sigmoid":  # the one multiplication
                losses = weight * pair_losses(chosen, rejected, ref_chosen, ref_rejected, self.beta)
                loss = loss + scale * losses.mean()
            else:  # "sft": the token mean of the chosen side, each pair's tokens at its weight
                loss = loss - scale * (weight * chosen).sum() / mask.chunk(2)[0].sum()

        with torch.no_grad():
            rewards = self.beta * (chosen - ref_chosen), self.beta * (rejected - ref_rejected)
            self._record("rewards/chosen", rewards[0])
            self._record("rewards/rejected", rewards[1])
            self._record("rewards/accuracies", (rewards[0] > rewards[1]).float())
            self._record("rewards/margins", rewards[0] - rewards[1])
            self._record("logps/chosen", chosen)
            self._record("logps/rejected", rejected)
            self._record("weight", weight)
            if return_outputs:  # the fused head builds no logits, and `compute_metrics` wants some
                outputs = model(**batch, use_cache=False)
        return (loss, outputs) if return_outputs else loss

    def _record(self, name: str, values: torch.Tensor) -> None:
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(
            self.accelerator.gather_for_metrics(values).float().mean().item()
        )


def check_columns(parts: dict[str, Any]) -> None:
    """Refuse, by ValueError, a train_dataset or eval_dataset among a trainer's arguments that lacks good weights."""
    for name in ("train_dataset", "eval_dataset"):
        data = parts.get(name)
        for part in data.values() if isinstance(data, dict) else [data] if data is not None else []:
            if not hasattr(part, "column_names"):
                raise ValueError(
                    f"{name} is no datasets.Dataset: make one of rows by Dataset.from_list(rows)."
                )
            if "weight" not in (part.column_names or list(next(iter(part)))):
                raise ValueError(
                    f"{name} has no column 'weight': add one number a pair (all 1.0: the loss as it is)."
                )
            if hasattr(part, "__len__"):  # a streamed set is checked batch by batch in the collator
                check_weights(part["weight"][:], f"{name}'s weight")
