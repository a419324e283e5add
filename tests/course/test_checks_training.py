"""Exercises of notebooks 04 and 06: right answers pass, and each plausible wrong one is told what is wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from checked import assert_enough, assert_right, assert_told

from ddpo_utils import ddpo_loss, dorpo_loss
from ddpo_utils.course.checks import check


def shuffled(weight, prompt_id, rng):
    out = weight.copy()
    for prompt in np.unique(prompt_id):
        own = np.flatnonzero(prompt_id == prompt)
        out[own] = out[rng.permutation(own)]
    return out


def across_prompts(weight, prompt_id, rng):
    return rng.permutation(weight)


def drawn_again(weight, prompt_id, rng):
    out = weight.copy()
    for prompt in np.unique(prompt_id):
        own = np.flatnonzero(prompt_id == prompt)
        out[own] = rng.choice(weight[own], len(own))
    return out


def turned_round(weight, prompt_id, rng):
    out = weight.copy()
    for prompt in np.unique(prompt_id):
        out[prompt_id == prompt] = weight[prompt_id == prompt][::-1]
    return out


def in_blocks(weight, prompt_id, rng):
    out, start = weight.copy(), 0
    for prompt in dict.fromkeys(prompt_id):
        n = (prompt_id == prompt).sum()
        out[start : start + n] = rng.permutation(out[start : start + n])
        start += n
    return out


def pushed_on(weight, prompt_id, rng):
    out = weight.copy()
    for prompt in np.unique(prompt_id):
        own = np.flatnonzero(prompt_id == prompt)
        out[own] = np.roll(weight[own], rng.integers(1, 3))
    return out


def planted(pairs, weight_of):
    weight = weight_of.loc[pairs["chosen_row"]].to_numpy()
    pairs = pairs.sort_values("gap", ascending=False, kind="stable").reset_index(drop=True)
    return pairs.assign(weight=weight)


def aligned(pairs, weight_of):
    pairs = pairs.sort_values("gap", ascending=False, kind="stable").reset_index(drop=True)
    return pairs.assign(weight=weight_of.loc[pairs["chosen_row"]].to_numpy())


def sorting_dropped(pairs, weight_of):
    return pairs.assign(weight=weight_of.loc[pairs["chosen_row"]].to_numpy())


def weights_sorted_too(pairs, weight_of):
    made = planted(pairs, weight_of)
    return made.assign(weight=np.sort(made["weight"])[::-1])


def by_the_label_of_the_pair(pairs, weight_of):
    pairs = pairs.sort_values("gap", ascending=False).reset_index(drop=True)
    return pairs.assign(weight=weight_of.loc[pairs["chosen_row"]])


def by_position(pairs, weight_of):
    made = aligned(pairs, weight_of)
    return made.assign(weight=weight_of.iloc[: len(pairs)].to_numpy())


def of_the_loser(pairs, weight_of):
    made = aligned(pairs, weight_of)
    return made.assign(weight=weight_of.loc[made["rejected_row"]].to_numpy())


def first_pair_lost(pairs, weight_of):
    return aligned(pairs, weight_of).iloc[1:]


def lora(layers, maps, r):
    return layers * sum(r * (n_in + n_out) for n_in, n_out in maps)


def token_ratio(w, l):
    p, q = w.mean().exp(), l.mean().exp()
    return torch.log(p / (1 - p)) - torch.log(q / (1 - q))


def of_sums(w, l):
    p, q = w.sum().exp(), l.sum().exp()
    return torch.log(p / (1 - p)) - torch.log(q / (1 - q))


def of_probabilities(w, l):
    return w.mean() - l.mean()


def without_logarithm(w, l):
    p, q = w.mean().exp(), l.mean().exp()
    return p / (1 - p) / (q / (1 - q))


def arithmetic_mean(w, l):
    p, q = w.exp().mean(), l.exp().mean()
    return torch.log(p / (1 - p)) - torch.log(q / (1 - q))


def pooled(nll, tokens, weight):
    return (weight * nll).sum() / tokens.sum()


def all_of_dorpo(lo, nll, tokens, weight, lam):
    return (weight * nll).sum() / tokens.sum() - lam * F.logsigmoid(weight * lo).mean()


def outside(lo, nll, tokens, weight, lam):
    return (weight * nll).sum() / tokens.sum() - lam * (weight * F.logsigmoid(lo)).mean()


def likelihood_unweighted(lo, nll, tokens, weight, lam):
    return nll.sum() / tokens.sum() - lam * F.logsigmoid(weight * lo).mean()


def penalty_summed(lo, nll, tokens, weight, lam):
    return (weight * nll).sum() / tokens.sum() - lam * F.logsigmoid(weight * lo).sum()


def mean_of_weights(lo, nll, tokens, weight, lam):
    return weight.mean() * nll.sum() / tokens.sum() - lam * F.logsigmoid(weight.mean() * lo).mean()


def penalty_taken_off(lo, nll, tokens, weight, lam):
    return (weight * nll).sum() / tokens.sum() + lam * F.logsigmoid(weight * lo).mean()


def clipped(w, l):
    p, q = w.mean().exp().clamp(max=0.99), l.mean().exp()
    return torch.log(p / (1 - p)) - torch.log(q / (1 - q))


RIGHT = {
    "shuffle_within": shuffled,
    "weighted_rows": aligned,
    "lora_numbers": lora,
    "log_odds_ratio": token_ratio,
    "pooled_likelihood": pooled,
    "dorpo_by_hand": all_of_dorpo,
}
WRONG = [
    ("shuffle_within", across_prompts, "Prompt p. got a weight that belonged to another prompt"),
    ("shuffle_within", in_blocks, "Prompt p. got a weight that belonged to another prompt"),
    ("shuffle_within", drawn_again, "some weight occurs twice and another is gone"),
    ("shuffle_within", turned_round, "sixty times the same deal"),
    ("shuffle_within", lambda weight, prompt_id, rng: weight, "your control is DDPO itself"),
    ("shuffle_within", pushed_on, "every place must be open to every weight"),
    (
        "weighted_rows",
        planted,
        r"All the right weights are there, but \d+ of 12 pairs have another pair's",
    ),
    ("weighted_rows", weights_sorted_too, r"All the right weights are there, but \d of 4"),
    ("weighted_rows", sorting_dropped, "must still run from the largest gap to the smallest"),
    ("weighted_rows", by_the_label_of_the_pair, r"Some pair has no weight \(NaN\)"),
    ("weighted_rows", by_position, "the weight is not that of the story in `chosen_row`"),
    ("weighted_rows", of_the_loser, "the weight of its loser"),
    ("weighted_rows", first_pair_lost, "Some of the pairs are lost"),
    (
        "weighted_rows",
        lambda pairs, weight_of: aligned(pairs, weight_of)["weight"],
        "return the frame of pairs",
    ),
    (
        "lora_numbers",
        lambda n, maps, r: n * sum(a * b for a, b in maps) * r,
        "40,000 numbers; the map has 10,000",
    ),
    (
        "lora_numbers",
        lambda n, maps, r: n * sum(r * a for a, _ in maps),
        "inputs and outputs changed over",
    ),
    (
        "lora_numbers",
        lambda n, maps, r: sum(r * (a + b) for a, b in maps),
        r"yours have 1\.00 times",
    ),
    (
        "lora_numbers",
        lambda n, maps, r: n * sum(a + b for a, b in maps),
        r"Twice the rank .* yours are 1\.00 times",
    ),
    ("lora_numbers", lambda n, maps, r: lora(n, maps[:1], r), "The maps of a layer must add up"),
    (
        "lora_numbers",
        lambda n, maps, r: 2 * lora(n, maps, r),
        "you count 8,080: write down both shapes",
    ),
    ("log_odds_ratio", of_sums, "I repeated the tokens of the chosen response"),
    ("log_odds_ratio", of_probabilities, r"yours is 1\.10: go through steps 2 to 4"),
    (
        "log_odds_ratio",
        without_logarithm,
        r"against itself has the log odds ratio 0; yours is 1\.00",
    ),
    ("log_odds_ratio", lambda w, lost: token_ratio(w, lost).abs(), "must only change its sign"),
    ("log_odds_ratio", clipped, "one whose tokens are nearly certain is not"),
    ("log_odds_ratio", arithmetic_mean, r"two responses on paper yours is"),
    ("log_odds_ratio", lambda w, lost: token_ratio(lost, w), "your ratio is below 0"),
    (
        "pooled_likelihood",
        lambda nll, t, w: w.mean() * nll.sum() / t.sum(),
        "it does not know whose weight it is",
    ),
    ("pooled_likelihood", lambda nll, t, w: (w * nll / t).mean(), "every token has the same say"),
    (
        "pooled_likelihood",
        lambda nll, t, w: (w * nll).sum() / (w * t).sum(),
        r"Weights of 3 .* yours give 1\.00 times",
    ),
    (
        "pooled_likelihood",
        lambda nll, t, w: (w.flip(0) * nll).sum() / t.sum(),
        "whose tokens does each weight meet",
    ),
    ("pooled_likelihood", lambda nll, t, w: (w * nll).sum(), r"yours is 45\.00 times that"),
    ("dorpo_by_hand", outside, "on which side of the sigmoid does the weight stand"),
    (
        "dorpo_by_hand",
        likelihood_unweighted,
        r"must double the part from the likelihood; yours is 1\.00 times",
    ),
    ("dorpo_by_hand", penalty_summed, "With weights of 1 DORPO is ORPO"),
    ("dorpo_by_hand", penalty_taken_off, "With weights of 1 DORPO is ORPO"),
    (
        "dorpo_by_hand",
        mean_of_weights,
        "each pair's likelihood and odds meet that pair's own weight",
    ),
]


@pytest.mark.parametrize("name", RIGHT)
def test_the_solution_passes(name, capsys):
    assert_right(name, RIGHT[name], lambda: capsys.readouterr().out)


@pytest.mark.parametrize(("name", "answer", "says"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, says):
    assert_told(name, answer, says)


def test_every_exercise_has_three_wrong_answers():
    assert_enough(RIGHT, WRONG)


def test_the_package_s_own_losses_pass():
    assert check("ddpo_by_hand", ddpo_loss)

    def by_package(lo, nll, tokens, weight, lam):
        """Log-probs of one token each whose log odds ratio is `lo`."""
        losing = torch.full_like(lo, -2.0)
        odds = torch.exp(lo + torch.log(losing.exp() / (1 - losing.exp())))
        return dorpo_loss(
            torch.log(odds / (1 + odds)), losing, [1] * 3, [1] * 3, nll, tokens, weight, lam
        )

    assert check("dorpo_by_hand", by_package)


def test_the_planted_fault_is_silent_on_sorted_pairs():
    """What makes it worth an exercise: nothing fails where the pairs happen to come in order."""
    pairs = pd.DataFrame({"chosen_row": [7, 3], "rejected_row": [1, 2], "gap": [3.0, 1.0]})
    weight_of = pd.Series({1: 0.1, 2: 0.2, 3: 0.3, 7: 0.7})
    assert planted(pairs, weight_of).equals(aligned(pairs, weight_of))
    assert not planted(pairs[::-1], weight_of).equals(aligned(pairs[::-1], weight_of))
