"""Checks of notebook 05: pairs ordered rightly, the control at the nearest KL, and the justified verdict."""

from __future__ import annotations

from itertools import product

import numpy as np

from ...evaluation.statistics import Interval
from .tools import Learner, NotYet, exercise, near, need, numbers


@exercise("share_ordered")
def share_ordered(answer: Learner) -> str:
    rng = np.random.default_rng(0)
    prompt = np.repeat(["p1", "p2", "p3"], (3, 5, 8))
    score = np.concatenate([rng.permutation(n).astype(float) for n in (3, 5, 8)])
    for guess, what, share in (
        (score, "the scores themselves", 1),
        (-score, "the scores turned round", 0),
    ):
        value = numbers(answer(score, guess, prompt))
        need(
            near(value, share),
            f"A reward that gives {what} must get {share}; yours gets {value:.2f}.",
        )
    same = numbers(answer(score, np.ones(16), prompt))
    need(
        near(same, 0),
        f"A reward that gives every story the same number has ordered no pair; yours gets {same:.2f}.",
    )
    level = np.repeat([0.0, 10.0, 20.0], (3, 5, 8))
    raised = numbers(answer(score + level, level - score, prompt))
    need(
        near(raised, 0),
        "This reward knows which prompts have high scores and turns every pair of one prompt round, so it has ordered "
        f"none; yours gets {raised:.2f}: pair stories of one prompt alone.",
    )
    tied = np.array([1.0, 2.0, 2.0, 3.0])
    value = numbers(answer(tied, np.array([1.0, 2.0, 5.0, 7.0]), np.array(["p1"] * 4)))
    need(
        near(value, 1),
        "Two stories with the same score cannot be ordered rightly or wrongly: leave such a pair out of the count.",
    )
    guess = score.copy()
    guess[prompt == "p3"] *= -1
    value = numbers(answer(score, guess, prompt))
    need(
        near(value, 2 / 3),
        "Here all pairs of two prompts are right and none of the third, which has most stories: each prompt has the "
        f"same say, so take the share prompt by prompt first. Yours is {value:.2f}.",
    )
    return "perfect, reversed and constant rewards, tied scores, and prompts of different sizes."


@exercise("nearest_control")
def nearest_control(answer: Learner) -> str:
    cases = [
        {
            ("ddpo", 14): 5.1,
            ("ddpo", 28): 6.7,
            ("dpo", 14): 5.4,
            ("dpo", 28): 5.9,
            ("shuffled", 28): 6.9,
        },
        {
            ("dpo", 7): 3.0,
            ("dpo", 14): 5.6,
            ("dpo", 28): 9.0,
            ("ddpo", 14): 3.1,
            ("ddpo", 28): 6.0,
            ("sft", 0): 6.0,
        },
        {
            ("ddpo", 28): 7.0,
            ("ddpo", 7): 2.0,
            ("dpo", 28): 9.9,
            ("dpo", 14): 7.4,
            ("dpo", 7): 6.2,
            ("shuffled", 7): 7.0,
        },
    ]
    for kl in cases:
        found = answer(kl)
        need(
            found in kl if isinstance(found, tuple) else False,
            f"Return a key of kl, such as ('dpo', 14); yours is {found!r}.",
        )
        need(
            found[0] == "dpo",
            f"The control must be a checkpoint of DPO; yours is one of {found[0]}.",
        )
        last = max(step for arm, step in kl if arm == "ddpo")
        away = {key: abs(value - kl["ddpo", last]) for key, value in kl.items() if key[0] == "dpo"}
        need(
            away[found] == min(away.values()),
            f"DDPO's last checkpoint has a KL of {kl['ddpo', last]} and yours {kl[found]}; another checkpoint of DPO "
            "is nearer, on one side or the other.",
        )
    return "three runs whose nearest checkpoint is the last, lies below, and lies above."


NAMED = ("shuffled weights", "DPO at matched KL", "usable stories")


@exercise("justified_verdict")
def justified_verdict(answer: Learner) -> str:
    above, below, includes = (Interval(m, m - 0.03, m + 0.03, 40) for m in (0.05, -0.05, 0.02))
    kept, worse, lost = (Interval(m, m - 0.02, m + 0.02, 40) for m in (0.0, -0.04, -0.2))
    says = {
        "diverse": "Your verdict counts a difference in diversity as shown although its interval includes 0: the lower "
        "end decides, not the mean.",
        "usable": "The share of usable stories may have fallen by more than the margin here, and your verdict does not "
        "mind: ask how low the interval reaches.",
        "strict": "The usable stories are surely within the margin here, and your verdict still says no: they may be a "
        "little fewer, only not by more than the margin.",
        "both": "Here DDPO is above one control only: is one control enough?",
    }
    for a, b, u, v in product(
        (above, below, includes), (above, below, includes), (kept, worse, lost), (kept, worse)
    ):
        told = answer(a, b, u, v, 0.05)
        need(
            isinstance(told, tuple) and len(told) == 2 and isinstance(told[0], (bool, np.bool_)),
            "Return two things: True or False, and a list of the reasons against.",
        )
        effect, why = told
        diverse = {NAMED[0]: a.low > 0, NAMED[1]: b.low > 0}
        usable = u.low > -0.05 and v.low > -0.05
        right = all(diverse.values()) and usable
        if effect and not right:
            need(not all(diverse.values()), says["usable"])
            raise NotYet(says["both" if below in (a, b) and above in (a, b) else "diverse"])
        need(effect or not right, says["strict"])
        need(
            isinstance(why, (list, tuple, set)) and all(reason in NAMED for reason in why),
            f"The reasons are names out of this list: {', '.join(NAMED)}.",
        )
        against = {name for name, holds in diverse.items() if not holds} | (
            set() if usable else {NAMED[2]}
        )
        need(
            not (effect and why),
            "Where there is an effect there is no reason against it: return an empty list.",
        )
        need(
            set(why) == against,
            "The verdict is right, but not justified: of the conditions that are not met your list "
            f"{'leaves some out' if against - set(why) else 'names some that are met'}.",
        )
    return "every combination of differences above, around and below 0, with usable stories kept and lost."
