"""Checks of notebook 05: pairs in the right order, the control at matched KL, and the verdict."""

from __future__ import annotations

from itertools import product

import numpy as np

from ...evaluation.statistics import Interval
from .tools import Learner, agree, agree_on_random, exercise, need


@exercise
def share_ordered(answer: Learner) -> str:
    rng = np.random.default_rng(0)
    sizes = (3, 5, 8)
    prompt = np.repeat(["p1", "p2", "p3"], sizes)
    score = np.concatenate([rng.permutation(size) for size in sizes]).astype(float)
    agree(answer.number(score, score, prompt), 1, "The scores themselves order every pair.")
    agree(answer.number(score, -score, prompt), 0, "Scores with the sign changed order no pair.")
    agree(answer.number(score, np.ones(16), prompt), 0, "A constant reward orders no pair.")
    level = np.repeat([0.0, 10.0, 20.0], sizes)
    share = answer.number(score + level, level - score, prompt)
    agree(share, 0, "This reward reverses every pair within a prompt: compare those only.")
    tied = np.array([1.0, 2.0, 2.0, 3.0])
    guess = np.array([1.0, 2.0, 5.0, 7.0])
    share = answer.number(tied, guess, np.array(["p1"] * 4))
    agree(share, 1, "A pair with equal scores has no order: leave it out of the count.")
    guess = np.where(prompt == "p3", -score, score)
    agree(answer.number(score, guess, prompt), 2 / 3, "First take the share by prompt.")
    agree_on_random(answer, _share_ordered, _scores, "Take all pairs of a prompt, in any order.")
    return "perfect, reversed and constant rewards, tied scores, and prompts of different sizes."


def _share_ordered(score: np.ndarray, guess: np.ndarray, prompt: np.ndarray) -> float:
    shares = []
    for name in set(prompt):
        rows = np.flatnonzero(prompt == name)
        pairs = [(i, j) for i, j in product(rows, rows) if score[i] > score[j]]
        shares.append(np.mean([guess[i] > guess[j] for i, j in pairs]))
    return float(np.mean(shares))


def _scores(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and guesses with ties, of two to four prompts with a pair each, in mixed order."""
    prompt = np.concatenate([[name] * rng.integers(2, 7) for name in "abcd"[: rng.integers(2, 5)]])
    score = rng.integers(0, 4, len(prompt)).astype(float)
    for name in set(prompt):
        score[np.flatnonzero(prompt == name)[0]] = 9
        score[np.flatnonzero(prompt == name)[1]] = 0
    guess = rng.integers(0, 4, len(prompt)).astype(float)
    order = rng.permutation(len(prompt))
    return score[order], guess[order], prompt[order]


def _random_run(rng: np.random.Generator) -> dict[str, dict[int, float]]:
    """KL by arm and step; the last step is another one in each arm, and KL may fall."""
    run = {}
    for arm in rng.permutation(["dpo", "ddpo", "shuffled", "orpo"]):
        steps = rng.permutation(40)[: rng.integers(1, 6)] + 1
        run[str(arm)] = {int(step): float(rng.uniform(1, 9)) for step in steps}
    return run


@exercise
def nearest_control(answer: Learner) -> str:
    rng = np.random.default_rng(0)
    runs = (  # KL by arm and step
        {"ddpo": {14: 5.1, 28: 6.7}, "dpo": {14: 5.4, 28: 5.9}, "shuffled": {28: 6.9}},
        {"dpo": {7: 3.0, 14: 5.6, 28: 9.0}, "ddpo": {14: 3.1, 28: 6.0}, "sft": {0: 6.0}},
        {"ddpo": {28: 7.0, 7: 2.0}, "dpo": {28: 9.9, 14: 7.4, 7: 6.2}, "shuffled": {7: 7.0}},
        *(_random_run(rng) for _ in range(40)),
    )
    for run in runs:
        found = answer({(arm, step): run[arm][step] for arm in run for step in run[arm]})
        known = found in [("dpo", step) for step in run["dpo"]]
        need(known, f'Return a key of kl, ("dpo", step), for a step of DPO; yours is {found!r}.')
        step = found[1]
        target = run["ddpo"][max(run["ddpo"])]
        gaps = {step: abs(kl - target) for step, kl in run["dpo"].items()}
        message = f"DDPO's last checkpoint has a KL of {target:.3g}, yours {run['dpo'][step]:.3g}:"
        need(gaps[step] == min(gaps.values()), f"{message} another one of DPO is nearer.")
    return "three runs whose nearest checkpoint is the last, lies below, and lies above."


@exercise
def justified_verdict(answer: Learner) -> str:
    differences = [_interval(mean, 0.03) for mean in (0.05, -0.05, 0.02, 0.03)]
    usable = [_interval(mean, 0.02) for mean in (0.0, -0.04, -0.2, 0.2)]
    for *case, margin in product(differences, differences, usable, usable, (0.05, 0.1)):
        to_shuffled, to_dpo, *usable_gaps = case
        met = {
            "shuffled weights": to_shuffled.low > 0,
            "DPO at matched KL": to_dpo.low > 0,
            "usable stories": all(gap.low > -margin for gap in usable_gaps),
        }
        effect, reasons = answer(*case, margin)
        _check_verdict(effect, reasons, met)
    tested = "every combination of differences above, around and below 0"
    return f"{tested}, with usable stories kept and lost."


def _interval(mean: float, half: float) -> Interval:
    return Interval(mean, mean - half, mean + half, 40)


def _check_verdict(effect: bool, reasons: list[str], met: dict[str, bool]) -> None:
    form = isinstance(effect, bool | np.bool_) and isinstance(reasons, list | tuple)
    need(form and len(set(reasons)) == len(reasons), "Return True or False, and a list of reasons.")
    shown = met["shuffled weights"] and met["DPO at matched KL"]
    message = "A difference is shown if for both controls the lower end of the interval is above 0."
    need(shown or not effect, message)
    usable = effect == all(met.values())
    need(usable, "Usable stories, for both controls: compare `low` with minus the margin.")
    known = set(reasons) <= set(met)
    need(known, f"The reasons are names out of this list: {', '.join(met)}.")
    against = {name for name, holds in met.items() if not holds}
    message = "Right verdict, but the list must hold what is not met, and nothing else."
    need(against == set(reasons), message)
