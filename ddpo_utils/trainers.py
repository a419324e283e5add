"""DDPOTrainer and DORPOTrainer: TRL's DPO and ORPO with a weight for each pair, a column `weight`.

DDPOTrainer is not the one that TRL once had (denoising diffusion policy optimisation).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import add_fused_lm_head

from .deviation import check_numbers, to_list
from .losses import log_odds, pair_losses

with warnings.catch_warnings():  # TRL says that ORPO may change: hence the pinned version
    warnings.simplefilter("ignore")
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

__all__ = ["DDPOTrainer", "DORPOTrainer", "ORPOConfig", "WeightedCollator"]

# settings of DPOConfig that change the loss; DDPO is defined where they have their defaults
FIXED_SETTINGS = ("f_divergence_type", "ld_alpha", "use_weighting", "label_smoothing")
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


class WeightedCollator:
    """A pair collator that also returns the pairs' weights, a float32 tensor `weight` (B,)."""

    def __init__(self, collator: Any):
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [dict(example) for example in examples]
        weights = check_numbers([row.pop("weight", None) for row in rows], "weight")
        return {**self.collator(rows), "weight": torch.tensor(weights, dtype=torch.float32)}


class _CountsClippedSteps:
    """Counts the steps whose gradient was longer than `max_grad_norm`; a trainer's first base.

    Clipping divides by the gradient's length, and so by the mean weight of the batch.
    """

    steps = clipped_steps = 0

    @property
    def clipped_share(self) -> float:
        """Clipped steps as a share of this training's steps, 0 to 1."""
        return float(self.clipped_steps) / max(1, self.steps)

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        if norm is not None:
            self.steps += 1
            self.clipped_steps += norm > self.args.max_grad_norm > 0
        return norm

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.steps = self.clipped_steps = 0
        result = super().train(*args, **kwargs)
        data = self.train_dataset
        uneven = not hasattr(data, "__len__") or len(set(to_list(data["weight"][:], "weight"))) > 1
        if uneven and self.clipped_share > 1 / 3:
            warnings.warn(
                f"max_grad_norm={self.args.max_grad_norm} clipped {self.clipped_share:.0%} of the "
                "steps and so undid their mean weights: raise it, or set it to 0 (no limit).",
                stacklevel=2,
            )
        return result


class DDPOTrainer(_CountsClippedSteps, DPOTrainer):
    """DPO with each pair's loss multiplied by its weight: the mean over the batch of w_i * DPO_i.

    Takes what `trl.DPOTrainer` takes. `train_dataset` and `eval_dataset` carry a column `weight`,
    finite and at least 0; with weights of 1, as all are where prompts have two responses, loss and
    gradients are TRL's. With the columns `ref_chosen_logps` and `ref_rejected_logps` no reference
    is run. `loss_type` is "sigmoid" (DPO) or ["sigmoid", "sft"], where the NLL is weighted by pair
    too: sum_i w_i NLL_i / sum_i T_i.

    Set `starts_at_reference = True` where the policy starts as the reference: the loss of the first
    step must then be ln 2 times the mean weight. `clipped_share` tells what max_grad_norm clipped.

    Raises:
        ValueError: a weight is faulty, the weights are not defined for the loss, an adapter acts on
            the LM head, or (in training) the first loss is not that of equal models.

    Source: Chung et al., arXiv 2503.17126, section 3; Rafailov et al., arXiv 2305.18290.
    """

    _tag_names = ("trl", "dpo", "ddpo")
    starts_at_reference = False

    def __init__(self, model: Any, ref_model: Any = None, args: Any = None, **kwargs: Any):
        if args is not None:
            types = [args.loss_type] if isinstance(args.loss_type, str) else args.loss_type
            faults = [x for x in FIXED_SETTINGS if getattr(args, x) != getattr(DPOConfig, x)]
            faults += [name for name in types if name not in ("sigmoid", "sft")]
            if faults:
                raise ValueError(f"DDPOTrainer weights the losses sigmoid and sft; drop {faults}.")
        _check_datasets(kwargs)
        _check_head(model)
        _check_head(ref_model)
        super().__init__(model, ref_model, args, **kwargs)
        if self.aux_loss_enabled:
            raise ValueError("A router's loss has no weights: set router_aux_loss_coef=0.")
        _check_head(self.model)
        if ref_model is None and isinstance(self.model, PeftModel):
            _prepare_reference(self.model)
        self.data_collator = WeightedCollator(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "weight" not in self._signature_columns:
            self._signature_columns.append("weight")  # else Trainer drops the column

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        # an unknown key would travel on to the model, and Llama ignores it silently
        return super().compute_ref_log_probs(model, _without(inputs, "weight"))

    def _compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False
    ) -> Any:
        weight, completion_mask = inputs["weight"], inputs["completion_mask"]
        labels = inputs["input_ids"].masked_fill(completion_mask == 0, -100)
        batch = _without(inputs, "weight", "completion_mask", *REFERENCE_COLUMNS)
        outputs = model(**batch, use_cache=False, labels=labels, fused_lm_head=True)
        # prompt-learning adapters put virtual tokens in front
        token_logps = outputs.log_probs[:, 1 - completion_mask.size(1) :]
        chosen, rejected = token_logps.sum(dim=1).chunk(2)
        if REFERENCE_COLUMNS[0] in inputs:
            ref_chosen, ref_rejected = (inputs[name] for name in REFERENCE_COLUMNS)
        else:
            reference = self.model if self.ref_model is None else self.ref_model
            ref_chosen, ref_rejected = self.compute_ref_log_probs(reference, inputs)

        chosen_logratios, rejected_logratios = chosen - ref_chosen, rejected - ref_rejected
        dpo = pair_losses(chosen_logratios, rejected_logratios, self.beta)
        if self.starts_at_reference and self.model.training and self.state.global_step == 0:
            self._check_first_loss(weight, dpo.detach(), chosen.detach())
        loss = 0.0
        for loss_type, scale in zip(self.loss_types, self.loss_weights, strict=True):
            if loss_type == "sigmoid":
                loss = loss + scale * (weight * dpo).mean()  # the one multiplication
            else:
                chosen_tokens = completion_mask[:, 1:].chunk(2)[0].sum()
                loss = loss - scale * (weight * chosen).sum() / chosen_tokens

        with torch.no_grad():
            rewards = self.beta * chosen_logratios, self.beta * rejected_logratios
            metrics = _pair_metrics(weight, (chosen, rejected), rewards)
            mode = "train" if self.model.training else "eval"
            for name, mean in _gathered_means(self.accelerator, metrics).items():
                self._metrics[mode][name].append(mean)
            if return_outputs:  # the fused head builds no logits, and `compute_metrics` wants some
                outputs = model(**batch, use_cache=False)
        return (loss, outputs) if return_outputs else loss

    def _check_first_loss(self, weight: Tensor, dpo: Tensor, chosen: Tensor) -> None:
        """ValueError unless every pair's loss is ln 2, to the rounding of the model's numbers.

        SmolLM2 in bfloat16, a text of 700 nats in batches of other sizes: apart by 0.15 eps x nats.
        """
        types = {p.dtype for p in self.model.parameters() if p.is_floating_point()}
        if self.args.bf16:
            types.add(torch.bfloat16)
        rounding = max(torch.finfo(dtype).eps for dtype in types) * chosen.abs().mean().item()
        tolerance = max(1e-3, self.beta * rounding / 4)  # a margin's error times beta / 2
        if not (dpo - math.log(2)).abs().mean() <= tolerance:  # NaN is refused too
            raise ValueError(
                f"The first step's loss is {(weight * dpo).mean():.4f} where equal models have "
                f"{math.log(2) * weight.mean():.4f}, ln 2 times the mean weight: the reference is "
                "not the adapter that training starts from. Delete stored reference log-probs."
            )


class DORPOTrainer(_CountsClippedSteps, ORPOTrainer):
    """ORPO with weights: sum_i w_i NLL_i / sum_i T_i - beta * mean_i log sigmoid(w_i * LO_i).

    Takes what TRL's `ORPOTrainer` takes and the column `weight` as `DDPOTrainer`; weights of 1 are
    ORPO (see `losses.dorpo_loss`). The tokens T_i are pooled over all parts and processes of a
    step, where TRL takes the mean of the parts' means. TRL's fused head builds no logits.

    Raises:
        ValueError: a weight is faulty, a response has no token within `max_length`, an adapter acts
            on the LM head, or the model is an encoder-decoder or has a router's loss.

    Source: Chung et al., arXiv 2503.17126, section 3; Hong et al., arXiv 2403.07691, equation 6.
    """

    _tag_names = ("trl", "orpo", "dorpo")

    def __init__(self, model: Any = None, args: Any = None, **kwargs: Any):
        _check_datasets(kwargs)
        super().__init__(model, args, **kwargs)
        if self.is_encoder_decoder or self.aux_loss_enabled:
            raise ValueError("DORPOTrainer weights decoders, and no router's loss.")
        _check_head(self.model)
        self.data_collator = WeightedCollator(self.data_collator)
        self.tokens_per_part: Tensor | None = None
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        add_fused_lm_head(base, outputs=("log_probs", "mean_logits"))

    def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        row = super().tokenize_row(feature, model)
        if -100 in (row["chosen_labels"][-1], row["rejected_labels"][-1]):
            prompt = feature["prompt"][:60]
            raise ValueError(f"A prompt fills max_length: raise it, or leave out {prompt!r}.")
        return row

    def get_batch_samples(self, *args: Any) -> Any:
        parts, items = super().get_batch_samples(*args)
        if parts:
            tokens = [part["chosen_attention_mask"][:, 1:].sum() for part in parts]
            gathered = self.accelerator.gather(torch.stack(tokens).to(self.args.device))
            self.tokens_per_part = gathered.float().mean()
        return parts, items

    def get_batch_loss_metrics(
        self, model: Any, batch: dict[str, Any], train_eval: str = "train"
    ) -> Any:
        weight = batch["weight"]
        pads = {"padding_value": self.padding_value, "device": weight.device}
        inputs = self.concatenated_inputs(batch, **pads)
        tokens = {"input_ids": inputs["concatenated_input_ids"]}
        tokens["attention_mask"] = inputs["concatenated_attention_mask"]
        # the NLL covers prompt and response
        labels = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)
        outputs = model(**tokens, labels=labels, use_cache=False, fused_lm_head=True)
        completion_mask = inputs["concatenated_labels"][:, 1:] != -100
        # prompt-learning adapters put virtual tokens in front
        token_logps = outputs.log_probs[:, -completion_mask.size(1) :]
        completion_logps = (token_logps * completion_mask).sum(1)
        chosen, rejected = (completion_logps / completion_mask.sum(1)).chunk(2)
        ratio = log_odds(chosen) - log_odds(rejected)
        nll = -token_logps.chunk(2)[0].sum(1)
        lengths = [mask.sum() for mask in tokens["attention_mask"][:, 1:].chunk(2)]
        pooled = train_eval == "train" and self.tokens_per_part is not None
        nll_tokens = self.tokens_per_part if pooled else lengths[0]
        loss = (weight * nll).sum() / nll_tokens
        loss = loss - self.beta * F.logsigmoid(weight * ratio).mean()

        with torch.no_grad():
            rewards = self.beta * chosen, self.beta * rejected
            logits = [logits.sum() for logits in outputs.mean_logits.chunk(2)]
            metrics = _pair_metrics(weight, (chosen, rejected), rewards) | {
                "logits/chosen": logits[0] / lengths[0],
                "logits/rejected": logits[1] / lengths[1],
                "nll_loss": nll.sum() / lengths[0],
                "log_odds_ratio": F.logsigmoid(ratio),
                "log_odds_chosen": ratio,
            }
        means = _gathered_means(self.accelerator, metrics)
        prefix = "eval_" if train_eval == "eval" else ""
        return loss, {prefix + name: mean for name, mean in means.items()}


def _pair_metrics(
    weight: Tensor, logps: tuple[Tensor, Tensor], rewards: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """TRL's metrics of the pairs; logps and rewards are of (chosen, rejected)."""
    return {
        "rewards/chosen": rewards[0],
        "rewards/rejected": rewards[1],
        "rewards/accuracies": (rewards[0] > rewards[1]).float(),
        "rewards/margins": rewards[0] - rewards[1],
        "logps/chosen": logps[0],
        "logps/rejected": logps[1],
        "weight": weight,
    }


def _gathered_means(accelerator: Any, metrics: dict[str, Tensor]) -> dict[str, float]:
    """Means over all processes."""
    gathered = {name: accelerator.gather_for_metrics(value) for name, value in metrics.items()}
    return {name: value.float().mean().item() for name, value in gathered.items()}


def _check_head(model: Any) -> None:
    """ValueError where an adapter wraps the LM head: log-probs are read from the head's matrix."""
    head = model.get_output_embeddings() if isinstance(model, torch.nn.Module) else None
    if isinstance(head, BaseTunerLayer | AuxiliaryTrainingWrapper):
        raise ValueError(
            "An adapter on the LM head would neither act nor learn: take the head, and embeddings "
            "tied to it, out of target_modules, modules_to_save and trainable_token_indices."
        )


def _prepare_reference(model: Any) -> None:
    """Make the adapter "ref" equal "default"; ValueError where the base model is trained too."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if parameter.requires_grad and ".default" not in name:
            raise ValueError(f"{name} would move the reference too: use bias='none', or ref_model.")
        if name.endswith(".default") and "ref" in model.peft_config:  # TRL leaves these out
            parameters[name.removesuffix("default") + "ref"].data.copy_(parameter.data)


def _without(inputs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if key not in names}


def _check_datasets(arguments: dict[str, Any]) -> None:
    """Raise ValueError where a trainer's train_dataset or eval_dataset lacks good weights."""
    for name in ("train_dataset", "eval_dataset"):
        given = arguments.get(name)
        for data in list(given.values()) if isinstance(given, dict) else [given]:
            if data is None:
                continue
            if not hasattr(data, "column_names"):
                raise ValueError(f"{name} is no datasets.Dataset: use Dataset.from_list(rows).")
            if "weight" not in (data.column_names or list(next(iter(data)))):
                raise ValueError(
                    f"{name} has no column 'weight': give each pair a number, such as 1."
                )
            if hasattr(data, "__len__"):  # the collator checks a streamed set, batch by batch
                check_numbers(data["weight"][:], f"{name}'s weight")
