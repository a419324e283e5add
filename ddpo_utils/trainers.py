"""DDPOTrainer and DORPOTrainer: TRL's DPO and ORPO with a weight for each pair, a column `weight`.

DDPOTrainer is not the one that TRL once had (denoising diffusion policy optimisation).
"""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable
from copy import copy
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ParamSpec

import torch
import torch.nn.functional as F
from packaging.version import Version
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from .deviation import check_numbers, to_list
from .losses import log_odds

with warnings.catch_warnings():  # TRL says that ORPO may change: hence the range of versions
    warnings.simplefilter("ignore")
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

__all__ = ["DDPOTrainer", "DORPOTrainer", "ORPOConfig", "WeightedCollator"]

VERSIONS = {"trl": ("1.12", "1.17"), "transformers": ("5.10", "6")}  # from, and below
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
PAPER = {
    "title": "Modifying Large Language Model Post-Training for Diverse Creative Writing",
    "id": "2503.17126",
    "citation": """\
@article{chung2025modifying,
    title  = {{Modifying Large Language Model Post-Training for Diverse Creative Writing}},
    author = {Chung, John Joon Young and Padmakumar, Vishakh and Roemmele, Melissa and Sun, Yuqian
              and Kreminski, Max},
    year   = 2025,
    eprint = {arXiv:2503.17126}
}""",
}


P = ParamSpec("P")


def _arguments_of(init: Callable[P, None]) -> Callable[[Callable[..., None]], Callable[P, None]]:
    """A decorator that shows editors and `help` the arguments of TRL's trainer."""
    return wraps(init)


class WeightedCollator:
    """A pair collator that also returns the pairs' weights, a float32 tensor `weight` (B,)."""

    def __init__(self, collator: Any):
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [dict(example) for example in examples]
        weights = check_numbers([row.pop("weight", None) for row in rows], "weight")
        return {**self.collator(rows), "weight": torch.tensor(weights, dtype=torch.float32)}


class _WeightedTrainer:
    """What both trainers share: the count of clipped steps, resuming, the model card."""

    _paper = PAPER
    steps = clipped_steps = 0

    @property
    def clipped_share(self) -> float:
        """Steps whose gradient was longer than `max_grad_norm`, as a share of all, 0 to 1."""
        return float(self.clipped_steps) / max(1, self.steps)

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        if norm is not None:
            self.steps += 1
            self.clipped_steps += norm > self.args.max_grad_norm > 0
        return norm

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.steps = self.clipped_steps = 0
        weights = _known_weights(self.train_dataset)
        if weights and set(weights) == {1.0}:
            warnings.warn("Every weight is 1, so this trains without deviation.", stacklevel=2)
        result = super().train(*args, **kwargs)
        if self.clipped_share > 1 / 3 and (weights is None or len(set(weights)) > 1):
            warnings.warn(
                f"max_grad_norm={self.args.max_grad_norm} clipped {self.clipped_share:.0%} of the "
                "steps and so undid their mean weights: raise it, or set it to 0 (no limit).",
                stacklevel=2,
            )
        return result

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if len(getattr(self.model, "peft_config", ())) > 1 and not self.is_fsdp_enabled:
            # transformers before 5.23 reads the others, such as "ref", alone
            set_peft_model_state_dict(self.model, load_peft_weights(resume_from_checkpoint))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write TRL's model card, and below it the weights that the pairs had."""
        super().create_model_card(*args, **kwargs)
        card = Path(self.args.output_dir, "README.md")
        weights = _known_weights(self.train_dataset)
        if weights and self.is_world_process_zero():
            with card.open("a", encoding="utf-8") as file:
                file.write(
                    f"\n## Weights of the {len(weights):,} preference pairs\n\n"
                    f"Mean {sum(weights) / len(weights):.3f}, smallest {min(weights):.3f}, "
                    f"largest {max(weights):.3f}.\n"
                )


class DDPOTrainer(_WeightedTrainer, DPOTrainer):
    """DPO with each pair's loss multiplied by its weight: the mean over the batch of w_i * DPO_i.

    Takes what `trl.DPOTrainer` takes. `train_dataset` and `eval_dataset` carry a column `weight`,
    finite and at least 0; with weights of 1, as all are where prompts have two responses, loss and
    gradients are TRL's. DPO_i is TRL's loss of pair i, for every `loss_type` that is a mean over
    pairs, and with every f-divergence, `ld_alpha` and `use_weighting`. The NLL of "sft" is a mean
    over tokens: sum_i w_i NLL_i / sum_i T_i. A router's loss has no weight. Reference log-probs in
    columns of the data are used where TRL computed them, or after `precompute_ref_logps = True`.

    Set `starts_at_reference = True` where the policy starts as the reference: the reward margins of
    the first step must then be 0, and so the sigmoid loss ln 2 times the mean weight.
    `clipped_share` tells what share of the steps max_grad_norm clipped. TRL's 1.0 may clip all, and
    then each batch's mean weight is undone: set it so high that it acts in fewer than 5%.

    Raises:
        ValueError: TRL or transformers is of another version, a weight is faulty, the loss sorts
            the batch (aot), an adapter acts on the LM head, or (in training) the first margins are
            not those of equal models.

    Source: Chung et al., arXiv 2503.17126, section 3; Rafailov et al., arXiv 2305.18290.
    """

    _tag_names = ("trl", "dpo", "ddpo")
    _name = "DDPO"
    starts_at_reference = False

    @_arguments_of(DPOTrainer.__init__)
    def __init__(self, *args: Any, **kwargs: Any):
        given = inspect.signature(DPOTrainer.__init__).bind(self, *args, **kwargs).arguments
        _check_arguments(given, DPOConfig, VERSIONS)
        config, ref_model = given.get("args"), given.get("ref_model")
        if config is not None:
            _check_losses(config)
        _check_head(ref_model)
        super().__init__(*args, **kwargs)
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
        weight = inputs["weight"]
        inputs = _without(inputs, "weight")
        if not self.precompute_ref_logps:  # columns that TRL did not ask for may be stale
            reference = self.model if self.ref_model is None else self.ref_model
            logps = self.compute_ref_log_probs(reference, inputs)
            inputs |= zip(REFERENCE_COLUMNS, logps, strict=True)
        calls = []

        def forward(**kwargs: Any) -> Any:
            calls.append(model(**kwargs))
            return calls[-1]

        # TRL runs the model and logs its metrics; its loss, of weights 1, is not used
        whole = copy(self)
        whole.precompute_ref_logps = True
        result = super(DDPOTrainer, whole)._compute_loss(forward, inputs, return_outputs)
        self._total_train_tokens = whole._total_train_tokens
        mode = "train" if self.model.training else "eval"
        mean = self.accelerator.gather_for_metrics(weight).mean().item()
        self._metrics[mode]["weight"].append(mean)

        loss = self._weighted_loss(weight, inputs, calls[0])
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * calls[0].aux_loss
        return (loss, result[1]) if return_outputs else loss

    def _weighted_loss(self, weight: Tensor, inputs: dict[str, Any], outputs: Any) -> Tensor:
        """sum_i w_i DPO_i / B, where DPO_i is what TRL makes of the model's outputs for pair i."""
        alone = copy(self)
        alone.precompute_ref_logps, alone.aux_loss_enabled = True, False
        local = dict.fromkeys(("gather", "gather_for_metrics"), torch.clone)  # not across processes
        alone.accelerator = SimpleNamespace(device=self.accelerator.device, **local)
        alone._metrics = {mode: defaultdict(list) for mode in self._metrics}
        alone.loss_weights = [1.0]
        n = len(weight)
        pairs = list(zip(_split_pairs(inputs, n), _split_pairs(outputs, n), strict=True))
        tokens = inputs["completion_mask"][:n, 1:].sum(1)
        loss = torch.zeros((), device=weight.device)
        for loss_type, scale in zip(self.loss_types, self.loss_weights, strict=True):
            alone.loss_types = [loss_type]
            shares = torch.full_like(weight, 1 / n)
            if loss_type == "sft":  # TRL's NLL is a mean over tokens
                shares = tokens / tokens.sum()
            for i, (pair, pair_outputs) in enumerate(pairs):
                dpo = super(DDPOTrainer, alone)._compute_loss(pair_outputs, vars(pair), False)
                loss = loss + scale * shares[i] * weight[i] * dpo  # the one multiplication
        if self.starts_at_reference and self.model.training and self.state.global_step == 0:
            self._check_first_margins(alone._metrics["train"])
        return loss

    def _check_first_margins(self, metrics: dict[str, list[float]]) -> None:
        """ValueError unless every pair's margin is 0, to the rounding of the model's numbers.

        SmolLM2 in bfloat16, a text of 700 nats in batches of other sizes: apart by 0.15 eps x nats.
        """
        types = {p.dtype for p in self.model.parameters() if p.is_floating_point()}
        if self.args.bf16:
            types.add(torch.bfloat16)
        margins, logps = (
            torch.tensor(metrics[name]).abs().mean().item()
            for name in ("rewards/margins", "logps/chosen")
        )
        rounding = max(torch.finfo(dtype).eps for dtype in types) * logps
        if not margins <= max(2e-3, self.beta * rounding / 2):  # NaN is refused too
            raise ValueError(
                f"The first step's reward margins are {margins:.4f} where equal models have 0 "
                "(a sigmoid loss of ln 2): the reference is not the adapter that training starts "
                "from. Delete stored reference log-probs."
            )


class DORPOTrainer(_WeightedTrainer, ORPOTrainer):
    """ORPO with weights: sum_i w_i NLL_i / sum_i T_i - beta * mean_i log sigmoid(w_i * LO_i).

    Takes what TRL's `ORPOTrainer` takes and the column `weight` as `DDPOTrainer`; weights of 1 are
    ORPO (see `losses.dorpo_loss`). The tokens T_i are pooled over all parts and processes of a
    step, where TRL takes the mean of the parts' means. TRL's fused head builds no logits.

    Raises:
        ValueError: TRL or transformers is of another version, a weight is faulty, a response has no
            token within `max_length`, an adapter acts on the LM head, or the model is an
            encoder-decoder.

    Source: Chung et al., arXiv 2503.17126, section 3; Hong et al., arXiv 2403.07691, equation 6.
    """

    _tag_names = ("trl", "orpo", "dorpo")
    _name = "DORPO"

    @_arguments_of(ORPOTrainer.__init__)
    def __init__(self, *args: Any, **kwargs: Any):
        given = inspect.signature(ORPOTrainer.__init__).bind(self, *args, **kwargs).arguments
        _check_arguments(given, ORPOConfig, VERSIONS | {"trl": ("1.15", "1.17")})
        from trl.trainer.utils import add_fused_lm_head  # which TRL 1.14 does not have

        super().__init__(*args, **kwargs)
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
        self._weight, self._train_eval = batch["weight"], train_eval
        loss, metrics = super().get_batch_loss_metrics(model, batch, train_eval)
        prefix = "eval_" if train_eval == "eval" else ""
        mean = self.accelerator.gather_for_metrics(self._weight).mean().item()
        return loss, metrics | {f"{prefix}weight": mean}

    def concatenated_forward(self, model: Any, batch: dict[str, Any]) -> Any:
        """What TRL's returns, with the weighted NLL and logits averaged over the vocabulary."""
        weight = batch["weight"]
        pads = {"padding_value": self.padding_value, "device": weight.device}
        inputs = self.concatenated_inputs(batch, **pads)
        tokens = {"input_ids": inputs["concatenated_input_ids"]}
        tokens["attention_mask"] = inputs["concatenated_attention_mask"]
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        # the NLL covers prompt and response
        labels = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)
        outputs = model(**tokens, **router, labels=labels, use_cache=False, fused_lm_head=True)
        completion_mask = inputs["concatenated_labels"][:, 1:] != -100
        # prompt-learning adapters put virtual tokens in front
        token_logps = outputs.log_probs[:, -completion_mask.size(1) :]
        logps = (token_logps * completion_mask).sum(1) / completion_mask.sum(1)
        nll_tokens = batch["chosen_attention_mask"][:, 1:].sum()
        if self._train_eval == "train" and self.tokens_per_part is not None:
            nll_tokens = self.tokens_per_part
        nll = -(weight * token_logps[: len(weight)].sum(1)).sum() / nll_tokens
        aux_loss = [outputs.aux_loss] if self.aux_loss_enabled else []
        return *logps.chunk(2), *outputs.mean_logits.chunk(2), nll, *aux_loss

    def odds_ratio_loss(self, chosen_logps: Tensor, rejected_logps: Tensor) -> Any:
        _, chosen_rewards, rejected_rewards, *_ = super().odds_ratio_loss(
            chosen_logps, rejected_logps
        )
        ratio = log_odds(chosen_logps) - log_odds(rejected_logps)  # exact near p = 1 too
        losses = self.beta * F.logsigmoid(self._weight * ratio)
        log_sigmoid = F.logsigmoid(ratio).mean()
        return losses, chosen_rewards, rejected_rewards, log_sigmoid, ratio.mean()


class _OnePair(SimpleNamespace):
    """The inputs or the model's outputs of one pair; called as the model, it returns itself."""

    def __call__(self, **kwargs: Any) -> _OnePair:
        return self


def _split_pairs(batch: Any, n: int) -> list[_OnePair]:
    """The n pairs of a mapping in which rows i and n + i are chosen and rejected of pair i."""
    pairs = [_OnePair() for _ in range(n)]
    for name, value in batch.items():
        rows = len(value) if isinstance(value, Tensor) and value.dim() else 0
        parts = [value] * n
        if rows == 2 * n:
            chosen, rejected = (half.unbind() for half in value.chunk(2))
            parts = [torch.stack(both) for both in zip(chosen, rejected, strict=True)]
        elif rows == n:
            parts = value.split(1)
        for pair, part in zip(pairs, parts, strict=True):
            setattr(pair, name, part)
    return pairs


def _check_arguments(
    given: dict[str, Any], config: type, versions: dict[str, tuple[str, str]]
) -> None:
    """ValueError unless the versions, the config's class, the model and the datasets are usable."""
    for package, (oldest, above) in versions.items():
        found = version(package)
        if not Version(oldest) <= Version(found) < Version(above):
            wanted = f"{package}>={oldest},<{above}"
            raise ValueError(f"{package} {found} is installed: pip install '{wanted}'.")
    args = given.get("args")
    if args is not None and not isinstance(args, config):
        wanted = f"{config.__module__.rpartition('.')[0]}.{config.__name__}"
        raise ValueError(f"args is of the type {type(args).__name__}: give {wanted}.")
    model = given.get("model")
    _check_head(model)
    decoder = not getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if config is ORPOConfig and not decoder:
        raise ValueError("DORPOTrainer weights decoders, and this model is an encoder-decoder.")
    for name in ("train_dataset", "eval_dataset"):
        data = given.get(name)
        for split in data.values() if isinstance(data, dict) else [data]:
            _check_weights(split, name)


def _check_losses(config: DPOConfig) -> None:
    """ValueError for a loss that is no mean over pairs, or that TRL computes elsewhere."""
    types = [config.loss_type] if isinstance(config.loss_type, str) else config.loss_type
    for name in {"aot", "aot_unpaired"} & set(types):
        raise ValueError(
            f"loss_type {name!r} sorts the batch, so no loss belongs to a pair: take another."
        )
    if config.use_liger_kernel and Version(version("trl")) < Version("1.15"):
        raise ValueError("Before TRL 1.15 Liger's loss has no weights: use_liger_kernel=False.")


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


def _known_weights(data: Any) -> list[float] | None:
    """The weights of a dataset; None where it is streamed, or there is none."""
    return to_list(data["weight"][:], "weight") if hasattr(data, "__len__") else None


def _check_weights(data: Any, name: str) -> None:
    """ValueError where a dataset lacks good weights; the collator checks those of a stream."""
    if data is None:
        return
    if not hasattr(data, "column_names"):
        raise ValueError(f"{name} is no datasets.Dataset: use Dataset.from_list(rows).")
    if "weight" not in (data.column_names or list(next(iter(data)))):
        raise ValueError(f"{name} has no column 'weight': ddpo_utils.add_weights makes it.")
    if hasattr(data, "__len__"):
        check_numbers(data["weight"][:], f"{name}'s weight")
