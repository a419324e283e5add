"""Measure whether the weights reach the parameters: results/influence.json.

    python data/make/influence.py

The gradients of 64 pairs' DPO losses are taken once, on SmolLM2 with the recorded SFT adapter as
policy and reference: the start of every preference run. Epochs are then played with each optimiser,
with the pairs' deviation weights and with weights of 1, the gradients held fixed. A pair's share in
a step is the length of the part of the parameter change that is due to its gradient,

    SGD:    c * w_i * |g_i| / B
    AdamW:  c * w_i * |g_i / (sqrt(v) + eps)| / B

with c the factor of clipping. Its influence is its mean share with weights over that with weights
of 1: it equals w_i where the weights reach the parameters unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpo_utils.evaluation.statistics import jackknife_interval
from ddpo_utils.models.policy import load_policy
from ddpo_utils.pairs import make_pairs
from ddpo_utils.settings import Profile, data_dir, get_profile, progress_bar
from ddpo_utils.storage.files import write_json
from ddpo_utils.trainers import DDPOTrainer
from ddpo_utils.training.arms import arm_weights, training_stories
from ddpo_utils.training.one_arm import to_dataset, trainer_arguments
from ddpo_utils.training.run_folder import run_facts
from recording import folders, parser, run

COMMAND = "python data/make/influence.py"
PAIRS, BATCHES, EPOCHS = 64, (4, 16, 64), 40
OPTIMISERS = {  # whether it is AdamW, and the largest norm (0: no limit)
    "SGD": (False, 0.0),
    "SGD, clipped at 1.0": (False, 1.0),
    "AdamW": (True, 0.0),
    "AdamW, clipped at 1.0": (True, 1.0),
}
BETA2, EPS = 0.999, 1e-8


def pair_gradients(profile: Profile, pairs: Any, folder: Path) -> torch.Tensor:
    """Gradient of each pair's DPO loss, (N, P), policy and reference being the SFT adapter."""
    from trl import DPOConfig

    model, tokenizer = load_policy(profile, adapter=data_dir() / "adapters" / "sft", trainable=True)
    trainer = DDPOTrainer(
        model=model,
        args=trainer_arguments(DPOConfig, folder, profile, beta=profile.beta),
        train_dataset=to_dataset(pairs, [1.0] * len(pairs)),
        processing_class=tokenizer,
    )
    trainer.model.train()
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    gradients = torch.empty(len(pairs), sum(p.numel() for p in trained))
    for i in progress_bar(range(len(pairs)), desc="gradients of pairs"):
        batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i]]))
        loss = trainer.compute_loss(trainer.model, batch)
        parts = torch.autograd.grad(loss, trained)
        gradients[i] = torch.cat([part.flatten().float() for part in parts])
    return gradients


def batches(n: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """The pairs of each step, shuffled anew in every epoch."""
    rng = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        yield from np.split(rng.permutation(n), n // size)


def shares(
    gradients: torch.Tensor, weight: np.ndarray, size: int, adam: bool, limit: float, seed: int
) -> tuple[np.ndarray, float]:
    """(each pair's mean share over the second half of the epochs, share of clipped steps)."""
    n = len(gradients)
    weights = torch.tensor(weight, dtype=torch.float32)
    lengths = gradients.norm(dim=1)
    squares = torch.zeros(gradients.shape[1])
    total, clipped = np.zeros(n), []
    steps = list(batches(n, size, seed))
    for step, rows in enumerate(steps, 1):
        gradient = weights[rows] @ gradients[rows] / size
        norm = gradient.norm().item()
        factor = min(1.0, limit / (norm + 1e-6)) if limit else 1.0  # as torch clips
        clipped.append(factor < 1)
        if adam:
            squares.mul_(BETA2).addcmul_(factor * gradient, factor * gradient, value=1 - BETA2)
        if step <= len(steps) / 2:
            continue
        parts = lengths[rows]
        if adam:
            scale = 1 / ((squares / (1 - BETA2**step)).sqrt() + EPS)
            parts = torch.stack([(gradients[i] * scale).norm() for i in rows])
        total[rows] += (factor * weights[rows] * parts / size).numpy()
    return total / (EPOCHS - EPOCHS // 2), float(np.mean(clipped))


def influence_of(
    gradients: torch.Tensor, weight: np.ndarray, size: int, adam: bool, limit: float
) -> dict[str, Any]:
    """Correlation over pairs of weight and influence, with a 95% interval over pairs."""
    mine, clipped = shares(gradients, weight, size, adam, limit, seed=0)
    even, _ = shares(gradients, np.ones(len(weight)), size, adam, limit, seed=0)
    influence = mine / even

    def correlation(pairs: np.ndarray) -> float:
        return float(np.corrcoef(weight[pairs], influence[pairs])[0, 1])

    interval = jackknife_interval(correlation, len(weight), (-1, 1))
    return {
        "correlation": [round(x, 4) for x in (interval.mean, interval.low, interval.high)],
        "mean_influence": round(float(influence.mean()), 4),
        "clipped_share": round(clipped, 4),
        "influence": influence.round(4).tolist(),
    }


def main() -> None:
    args = parser(__doc__).parse_args()
    parts, output = folders(args, "influence")
    profile = get_profile("laptop", dtype="float32")
    stories = training_stories(profile)
    pairs = make_pairs(stories, min_gap=profile.min_gap, seed=profile.seed)
    weight = arm_weights(stories, pairs, profile, ["ddpo"])["ddpo"]
    count = 8 if args.smoke else PAIRS
    chosen = np.sort(np.random.default_rng(profile.seed).choice(len(pairs), count, replace=False))
    weight = weight[chosen]
    gradients = pair_gradients(profile, pairs.iloc[chosen], parts)
    found: dict[str, dict[str, Any]] = {}
    for name, (adam, limit) in OPTIMISERS.items():
        found[name] = {}
        for size in (4, 8) if args.smoke else BATCHES:
            found[name][str(size)] = influence_of(gradients, weight, size, adam, limit)
            print(f"{name}, batch {size}: {found[name][str(size)]['correlation']}", flush=True)
    record = run_facts(
        profile,
        command=COMMAND,
        pairs=count,
        epochs=EPOCHS,
        weight=weight.round(4).tolist(),
        norms=gradients.norm(dim=1).numpy().round(4).tolist(),
        optimisers=found,
    )
    write_json(output / "results" / "influence.json", record)


if __name__ == "__main__":
    run(main)
