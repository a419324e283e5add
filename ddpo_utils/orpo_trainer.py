"""DORPOTrainer: TRL's ORPOTrainer with a weight for each pair, fed by a `weight` column."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from trl.trainer.utils import add_fused_lm_head

from .losses import log_odds
from .trainers import WeightedCollator, check_columns

with (
    warnings.catch_warnings()
):  # it says that the experimental part may change: hence the pin, and the contract test
    warnings.simplefilter("ignore")
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

__all__ = ["DORPOTrainer", "ORPOConfig"]


class DORPOTrainer(ORPOTrainer):
    """ORPO with the pairs' weights: sum_i w_i NLL_i / sum_i T_i - beta * mean_i log sigmoid(w_i * LO_i).

    Takes what `trl.experimental.orpo.ORPOTrainer` takes; `train_dataset` (and `eval_dataset`) carry a `weight` column
    of finite numbers, at least 0. With weights of 1 loss and gradients of a batch are TRL's. See `losses.dorpo_loss`.

    The tokens T_i are pooled over the whole batch of a step, in however many parts and on however many processes it is
    computed; TRL takes the mean of the parts' means. Log-probs come from TRL's fused head, which builds no logits, so
    memory is that of DPO without a reference; the metrics `logits/*` are means over tokens without the padding.

    Raises:
        ValueError: when it is made, if a weight is missing, negative or not finite, a response has no token within
            `max_length`, or the model is an encoder-decoder or has a router's auxiliary loss.

    Source: Chung et al., arXiv 2503.17126, section 3; Hong et al., arXiv 2403.07691, equations 3 to 7.
    """

    _tag_names = ["trl", "orpo", "dorpo"]

    def __init__(self, model: Any = None, args: Any = None, **kwargs: Any):
        check_columns(kwargs)
        super().__init__(model, args, **kwargs)
        if self.is_encoder_decoder or self.aux_loss_enabled:
            raise ValueError("DORPOTrainer weights decoders alone, and no router's auxiliary loss.")
        self.data_collator, self.pooled = WeightedCollator(self.data_collator), None
        bare = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        add_fused_lm_head(bare, outputs=("log_probs", "mean_logits"))

    def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        row = super().tokenize_row(feature, model)
        if -100 in (
            row["chosen_labels"][-1],
            row["rejected_labels"][-1],
        ):  # the mean of no tokens is no number
            raise ValueError(
                f"A prompt fills max_length: raise it, or leave out {feature['prompt'][:60]!r}"
            )
        return row

    def get_batch_samples(self, *args: Any) -> Any:
        samples, items = super().get_batch_samples(*args)
        if samples:  # tokens of a part, on average over all parts and processes
            counts = [
                batch["chosen_attention_mask"][:, 1:].sum().to(self.args.device)
                for batch in samples
            ]
            self.pooled = self.accelerator.gather(torch.stack(counts)).float().mean()
        return samples, items

    def get_batch_loss_metrics(
        self, model: Any, batch: dict[str, Any], train_eval: str = "train"
    ) -> Any:
        weight = batch["weight"]
        inputs = self.concatenated_inputs(
            batch, padding_value=self.padding_value, device=weight.device
        )
        ids, mask = inputs["concatenated_input_ids"], inputs["concatenated_attention_mask"]
        labels = ids.masked_fill(mask == 0, -100)  # the NLL covers prompt and response
        outputs = model(
            input_ids=ids, attention_mask=mask, labels=labels, use_cache=False, fused_lm_head=True
        )
        answer, told = inputs["concatenated_labels"][:, 1:] != -100, mask[:, 1:].chunk(2)
        chosen, rejected = ((outputs.log_probs * answer).sum(1) / answer.sum(1)).chunk(2)
        nll = -outputs.log_probs.chunk(2)[0].sum(1)  # 0 where there is padding
        tokens = self.pooled if train_eval == "train" and self.pooled is not None else told[0].sum()
        ratio = log_odds(chosen) - log_odds(rejected)
        loss = (weight * nll).sum() / tokens - self.beta * F.logsigmoid(weight * ratio).mean()

        with torch.no_grad():
            logits = [
                x.sum() / n.sum() for x, n in zip(outputs.mean_logits.chunk(2), told, strict=True)
            ]
            values = {
                "rewards/chosen": self.beta * chosen,
                "rewards/rejected": self.beta * rejected,
                "rewards/accuracies": (chosen > rejected).float(),
                "rewards/margins": self.beta * (chosen - rejected),
                "logps/chosen": chosen,
                "logps/rejected": rejected,
                "logits/chosen": logits[0],
                "logits/rejected": logits[1],
                "nll_loss": nll.sum() / told[0].sum(),
                "log_odds_ratio": F.logsigmoid(ratio),
                "log_odds_chosen": ratio,
                "weight": weight,
            }
        prefix = "eval_" if train_eval == "eval" else ""
        gather = self.accelerator.gather_for_metrics
        return loss, {
            prefix + name: gather(value).float().mean().item() for name, value in values.items()
        }
