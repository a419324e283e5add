"""Checks of notebook 05: pairs in the right order, the control at matched KL, and the verdict."""

from __future__ import annotations

from itertools import product

import numpy as np

from ...evaluation.statistics import Interval
from .tools import Learner, NotYet, agree, exercise, need

CONDITIONS = ("shuffled weights", "DPO at matched KL", "usable stories")


@exercise
def share_ordered(answer: Learner) -> str:
    rng = np.random.default_rng(0)
    prompt = np.repeat(["p1", "p2", "p3"], (3, 5, 8))
    score = np.concatenate([rng.permutation(n).astype(float) for n in (3, 5, 8)])
    agree(answer.number(score, score, prompt), 1, "The scores themselves order every pair.")
    agree(
        answer.number(score, -score, prompt), 0, "The scores with the sign changed order no pair."
    )
    agree(answer.number(score, np.ones(16), prompt), 0, "A constant reward orders no pair.")
    level = np.repeat([0.0, 10.0, 20.0], (3, 5, 8))
    message = "This reward reverses every pair within a prompt: compare stories of one prompt only."
    agree(answer.number(score + level, level - score, prompt), 0, message)
    tied, guess = np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 5.0, 7.0])
    value = answer.number(tied, guess, np.array(["p1"] * 4))
    agree(value, 1, "A pair with equal scores has no order: leave it out of the count.")
    guess = np.where(prompt == "p3", -score, score)
    message = "Two prompts are all right, the largest is all wrong: first take the share by prompt."
    agree(answer.number(score, guess, prompt), 2 / 3, message)
    return "perfect, reversed and constant rewards, tied scores, and prompts of different sizes."


@exercise
def nearest_control(answer: Learner) -> str:
    runs = (
        _checkpoints(ddpo={14: 5.1, 28: 6.7}, dpo={14: 5.4, 28: 5.9}, shuffled={28: 6.9}),
        _checkpoints(dpo={7: 3.0, 14: 5.6, 28: 9.0}, ddpo={14: 3.1, 28: 6.0}, sft={0: 6.0}),
        _checkpoints(ddpo={28: 7.0, 7: 2.0}, dpo={28: 9.9, 14: 7.4, 7: 6.2}, shuffled={7: 7.0}),
    )
    for kl in runs:
        found = answer(kl)
        is_key = isinstance(found, tuple) and found in kl
        need(is_key, f"Return a key of kl, such as ('dpo', 14); yours is {found!r}.")
        need(found[0] == "dpo", f"The control must be a checkpoint of DPO; yours is {found[0]}.")
        target = kl["ddpo", max(step for arm, step in kl if arm == "ddpo")]
        gaps = {key: abs(value - target) for key, value in kl.items() if key[0] == "dpo"}
        message = f"DDPO's last checkpoint has a KL of {target}, yours {kl[found]}:"
        need(gaps[found] == min(gaps.values()), f"{message} another one of DPO is nearer.")
    return "three runs whose nearest checkpoint is the last, lies below, and lies above."


def _checkpoints(**arms: dict[int, float]) -> dict[tuple[str, int], float]:
    """KL by (arm, step)."""
    return {(arm, step): kl for arm, steps in arms.items() for step, kl in steps.items()}


@exercise
def justified_verdict(answer: Learner) -> str:
    above, below, across = (Interval(m, m - 0.03, m + 0.03, 40) for m in (0.05, -0.05, 0.02))
    kept, worse, lost = (Interval(m, m - 0.02, m + 0.02, 40) for m in (0.0, -0.04, -0.2))
    cases = product(
        (above, below, across), (above, below, across), (kept, worse, lost), (kept, worse)
    )
    for to_shuffled, to_dpo, *usable in cases:
        met = (to_shuffled.low > 0, to_dpo.low > 0, all(gap.low > -0.05 for gap in usable))
        returned = answer(to_shuffled, to_dpo, *usable, 0.05)
        _check_verdict(returned, met)
    tested = "every combination of differences above, around and below 0"
    return f"{tested}, with usable stories kept and lost."


def _check_verdict(returned: object, met: tuple[bool, bool, bool]) -> None:
    is_pair = isinstance(returned, tuple) and len(returned) == 2
    is_pair = is_pair and isinstance(returned[0], (bool, np.bool_))
    need(is_pair, "Return two things: True or False, and a list of the reasons against.")
    effect, reasons = returned
    if effect and not (met[0] and met[1]):
        message = "You count a difference in diversity as shown that is not: for both controls "
        raise NotYet(message + "the lower end of the interval decides, not the mean.")
    need(met[2] or not effect, "Usable stories may be fewer by more than the margin: check `low`.")
    strict = "Usable stories are within the margin, and you say no: a few fewer are allowed."
    need(effect or not all(met), strict)
    is_list = isinstance(reasons, (list, tuple, set))
    known = is_list and all(reason in CONDITIONS for reason in reasons)
    need(known, f"The reasons are names out of this list: {', '.join(CONDITIONS)}.")
    need(not (effect and reasons), "With an effect there is no reason against it.")
    against = {name for name, holds in zip(CONDITIONS, met, strict=True) if not holds}
    need(against <= set(reasons), "Right verdict, but your list lacks a condition that is not met.")
    need(set(reasons) <= against, "Right verdict, but your list names a condition that is met.")
