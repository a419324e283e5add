"""Plausible wrong answers to each exercise: each gets the sentence about its own fault."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checked import SOLUTIONS, solution

from ddpo_utils import deviation_weights
from ddpo_utils.course.checks import check

# Exercise -> what in the notebook's solution is replaced by what, and words of the sentence.
CHANGED = {
    "set_diversity": [
        ("[np.triu_indices(len(e), 1)]", "", "Which pairs"),
        ("1 - e @ e.T", "e @ e.T", "Four copies"),
        (".mean()", ".sum()", "Unrelated stories"),
        ("distance[np.triu_indices(len(e), 1)]", "distance[0, 1:]", "not neighbours only"),
    ],
    "interval_over_prompts": [
        (" / np.sqrt(len(gaps))", "", "+145%"),
        ("student.ppf(0.975, len(gaps) - 1)", "1.96", "-24%"),
        ("a.mean(axis=1) - b.mean(axis=1)", "b.mean(axis=1) - a.mean(axis=1)", "second source"),
        ("gaps.mean() - half, gaps.mean() + half", "gaps.mean() + half, 0", "in the middle"),
        ("gaps.std(ddof=1)", "np.sqrt(a.var() / a.size + b.var() / b.size)", "what is the unit"),
        ("gaps.std(ddof=1)", "np.sqrt(a.mean(1).var() + b.mean(1).var())", "within each prompt"),
    ],
    "tokens_per_usable": [
        ("earlier += story", "pass", "row of six"),
        ("paid += prompt + earlier + story", "paid += story", "read and written"),
        ("paid += prompt", "paid += prompt * (earlier == 0)", "with every request"),
        ("sum(usable) if", "len(usable) if", "only half"),
        ('float("inf")', "0.0", "No price"),
        ("earlier += story", "earlier = story", "all earlier ones"),
    ],
    "weights_of_four": [
        ("(mean - mean.min()) / (mean.max() - mean.min())", "mean", "commonest"),
        ("stretched * len(d) / stretched.sum()", "stretched", "must sum to 4"),
        ("d.sum(axis=1)", "-d.sum(axis=1)", "must weigh most"),
        ("d.sum(axis=1)", "d.max(axis=1)", "spacing"),
        ("d.sum(axis=1)", "d.sum(axis=1).argsort().argsort()", "spacing"),
    ],
    "weights_with_floor": [
        ("floor * np.ones(len(delta)) + (1 - floor) * delta", "np.maximum(delta, floor)", "sum"),
        ("(1 - floor) * delta", "(1 - floor)", "floor itself"),
        ("* delta", "* len(delta) * delta**2 / (delta**2).sum()", "spacing"),
    ],
    "weights_or_ones": [
        ("above.max() < 1e-6", "False", "NaN"),
        ("above.max() < 1e-6", "above.max() == 0", "by rounding"),
        ("above.max() < 1e-6", "above.max() < 0.01", "is no tie"),
        ("np.ones", "np.zeros", "nobody"),
        ("above * len(raw) / above.sum()", "above / above.max()", "must sum to 3"),
        ("above * len(raw) / above.sum()", "above**2 * len(raw) / (above**2).sum()", "section 1"),
    ],
    "of_winners": [
        ("weight[chosen]", "weight", "Four pairs"),
        ("won.sum() ** 2", "won.sum()", "Four pairs"),
        ("won.mean(),", "weight.mean(),", "won no pair"),
        ("won.mean(),", "won.sum(),", "mean weight of the winners"),
        ("won.sum() ** 2 / (won**2).sum()", "len(chosen) - won.var()", "Doubling"),
        ("won.sum() ** 2 / (won**2).sum()", "len(won) / (1 + won.std() / won.mean())", "If one"),
        ("won.sum() ** 2 / (won**2).sum()", "(won > 0).sum()", "formula"),
    ],
    "loss_of_a_pair": [
        ("math.log(pi_w / ref_w) - math.log(pi_l / ref_l)", "math.log(pi_w / pi_l)", "ln 2"),
        ("return math", "return beta * math", "ln 2"),
        ("exp(-margin)", "exp(margin)", "signs"),
        ("math.log(pi_w / ref_w) - math.log(pi_l / ref_l)", "pi_w / ref_w - pi_l / ref_l", "steps"),
        ("beta * (", "(", "beta 0.5"),
        ("beta * (math.log(pi_w / ref_w)", "(beta * math.log(pi_w / ref_w)", "beta 0.5"),
    ],
    "response_mask": [
        ("torch.arange(1, attention_mask.shape[1]", "torch.arange(1, 2", "first token"),
        ("place >= n_prompt[:, None]", "place > n_prompt[:, None]", "first token of a response"),
        ("place >= n_prompt[:, None]", "place >= n_prompt[:, None] - 1", "token of the prompt"),
        ("place >= n_prompt[:, None]", "place >= n_prompt[0]", "two prompts"),
        (" & (attention_mask[:, 1:] == 1)", "", "counts padding"),
        ("attention_mask[:, 1:] == 1", "attention_mask[:, 1:].cumsum(1) < 4", "last token"),
    ],
    "ddpo_by_hand": [
        (".mean()", ".sum() / weight.sum()", "Weights of 3"),
        (".mean()", ".sum()", "6 times that"),
        ("weight * -F.logsigmoid(", "-F.logsigmoid(weight * ", "plain product"),
        ("weight *", "weight.mean() *", "to another pair"),
        (".mean()", "[weight > 0].mean()", "number of pairs"),
        ("-F.", "F.", "-1 times that"),
    ],
    "weight_for_a_share": [
        ("share * wins_b / ((1 - share) * wins_a)", "wins_b / wins_a", "needs no weighting"),
        ("return share * wins_b", "return (1 - share) * wins_a", "not at the wanted 0.5"),
        (" * wins_b / ((1 - share) * wins_a)", "/ (1 - share)", "needs no weighting"),
        ("return ", "return -1 + 2 * ", "0 or less"),
    ],
    "shuffle_within": [
        ("weight[rng.permutation(own)]", "rng.choice(weight[own], len(own))", "each of them once"),
        ("weight[rng.permutation(own)]", "weight[own][::-1]", "reached"),
        ("weight[rng.permutation(own)]", "np.roll(weight[own], rng.integers(1, 3))", "reached"),
        ("np.unique(prompt_id)", "[prompt_id]", "another prompt"),
    ],
    "weighted_rows": [
        ('.sort_values("gap", ascending=False, kind="stable")', "", "keep the sorting"),
        ('"chosen_row"', '"rejected_row"', "loser's weight"),
        (".to_numpy()", "", "NaN"),
        (".to_numpy()", ".sort_values().to_numpy()", "another pair's"),
        ('weight_of.loc[pairs["chosen_row"]]', "weight_of.iloc[: len(pairs)]", "`chosen_row`"),
        (".reset_index(drop=True)", ".reset_index(drop=True).iloc[1:]", "are lost"),
        ("return pairs.assign(", "return dict(", "docstring"),
    ],
    "lora_numbers": [
        ("r * n_in + r * n_out", "r * n_in * n_out", "40,000"),
        (" + r * n_out", "", "exchanged"),
        ("layers * ", "", "1 times as many"),
        ("r * n_in + r * n_out", "n_in + n_out", "Twice the rank"),
        ("in maps", "in maps[:1]", "add up"),
        ("layers * ", "2 * layers * ", "8.08e+03"),
    ],
    "share_ordered": [
        ("prompt_id == prompt", "prompt_id == prompt_id", "within a prompt"),
        ("> 0", ">= 0", "constant reward"),
        ("agree[differ]", "agree", "leave it out"),
        ("np.mean(shares)", "np.average(shares, weights=[3, 10, 28][: len(shares)])", "by prompt"),
        ("np.mean(shares)", "2 * np.mean(shares) - 1", "-1"),
    ],
    "nearest_control": [
        ('key[0] == "dpo"', 'key[0] != "ddpo"', "yours is ('shuffled', 28)"),
        ("min(away", "max(away", "another one"),
        ("last_step = max", "last_step = min", "another one"),
        ("key=away.get)", "key=away.get)[1]", "docstring"),
    ],
    "justified_verdict": [
        (".low > 0", ".mean > 0", "lower end"),
        ("to_dpo.low > 0,", "True,", "both controls"),
        (" and usable_to_dpo.low > -margin", "", "by more than the margin"),
        ("usable_to_shuffled.low > -margin", "usable_to_shuffled.mean > -margin", "the margin"),
        ("> -margin", "> 0", "a few fewer"),
        ("if not holds]", "if not holds][:1]", "lacks a condition"),
        ("if not holds]", "if not all(met.values())]", "names a condition that is met"),
        ('"usable stories":', '"usable":', "out of this list"),
    ],
    "log_odds_ratio": [
        (".mean().exp()", ".sum().exp()", "Repeated tokens"),
        (".mean().exp()", ".exp().mean()", "steps 2 to 4"),
        ("torch.log(", "(", "steps 2 to 4"),
        ("return torch", "return -torch", "against itself"),
        (" - torch.log(", " + torch.log(", "against itself"),
        (".mean().exp()", ".mean().exp().clamp(max=0.99)", "nearly certain"),
    ],
    "pooled_likelihood": [
        ("(weight * nll).sum() / tokens.sum()", "(weight * nll / tokens).mean()", "every token"),
        ("tokens.sum()", "(weight * tokens).sum()", "Weights of 3"),
        ("(weight * nll)", "(weight.mean() * nll)", "to another pair"),
        ("(weight * nll)", "(weight.flip(0) * nll)", "which tokens"),
        (" / tokens.sum()", "", "45 times that"),
    ],
    "dorpo_by_hand": [
        ("F.logsigmoid(weight * lo)", "(weight * F.logsigmoid(lo))", "side of the sigmoid"),
        ("(weight * nll)", "nll", "double the part"),
        (".mean()", ".sum()", "DORPO is ORPO"),
        ("- lam", "+ lam", "DORPO is ORPO"),
        ("weight *", "weight.mean() *", "its own weight"),
    ],
    "entropy_of_modes": [
        ("np.log(p)", "np.log2(p)", "1.44 times that"),
        ("-(p * np.log(p)).sum()", "len(p)", "one plot"),
        ("-(p * np.log(p)).sum()", "-np.log(p).mean()", "one of them frequent"),
        ("-(p * np.log(p)).sum()", "-np.log((p**2).sum())", "what weighs"),
        ("counts / counts.sum()", "counts / len(modes)", "None"),
    ],
    "frontier": [
        (" and p != q", "", "'dpo' is not in your list"),
        (">=", ">", "'b' is in your list"),
        ("p[0] >= q[0] and p[1] >= q[1] and p != q", "sum(p) > sum(q)", "'dpo' is not in"),
        ("    return [", "    return [1] or [", "out of points"),
    ],
    "decide": [
        ("-margin if", "0 if", "not 0"),
        ('"fails" if high < bound else "open"', '"fails"', "both sides"),
        ('"below":', '"under":', "which side"),
        ('"holds" if', "True if", "You answer True"),
    ],
    "deal_sides": [
        ("systems[place % 2]", "systems[rng.integers(2)]", "must be half"),
        ("rng.permutation(len(cards))", "range(len(cards))", "order that raters see"),
        (
            "rng.permutation(len(cards))",
            "np.random.default_rng(seed).permutation(len(cards))",
            "list of prompts",
        ),
        ("default_rng(seed)", "default_rng()", "The same seed"),
        ("default_rng(seed)", "default_rng(0)", "by the seed"),
        ("rng.permutation(len(prompts))", "range(len(prompts))", "one order"),
        ("rng.permutation(len(prompts))", "rng.integers(0, 2, len(prompts))", "each prompt once"),
        ("return order, {", "return [*order, *systems], {", "nothing else"),
        ("cards[card] for", "card for", "give the system"),
    ],
    "effective_labels": [
        ("return p, ", "return p, labels.sum() - 1, ", "shape (2,)"),
        ("p * (1 - p) / variance", "labels.sum() - 1", "three times"),
        ("prompts / (prompts - 1) * ", "", "factor"),
        ("hits.sum() / labels.sum()", "(hits / labels).mean()", "that of all labels"),
        (
            "((hits - p * labels) ** 2).sum() / labels.sum() ** 2",
            "((hits / labels - p) ** 2).sum() / prompts**2",
            "share times own labels",
        ),
        ("p * (1 - p) / variance", "variance", "divided by what"),
        ("return p, ", "return 1 - p, ", "comes first"),
    ],
    "sign_by_item": [
        ("> len(votes)", ">= len(votes)", "more than half"),
        ("> len(votes)", "> len(votes) - votes.count('undecided')", "more than half"),
        ("2 * votes.count(system) > len(votes)", "votes.count(system)", "count comparisons"),
        ("2 * one_side", "one_side", "about one side"),
        ("min(1, 2 * one_side)", "2 * one_side", "as even as"),
        ("range(min(ahead, behind) + 1)", "range(min(ahead, behind))", "all more uneven ones"),
        ("range(min(ahead, behind) + 1)", "[min(ahead, behind)]", "all more uneven ones"),
        ("/ 2**n", "/ 2**len(items)", "leaves ties out"),
        ("min(1, 2 * one_side)", "min(1, 2 * one_side) if n else 0.0", "Ties alone"),
    ],
    "best_of": [
        ("np.sort(scores)", "scores", "Six drawn of six"),
        (" / comb(len(scores), k)", "", "all stories score 6"),
        ("comb(below, k - 1)", "(below == len(scores) - 1) * comb(len(scores), k)", "One story"),
        ("comb(below, k - 1)", "comb(len(scores), k) / len(scores)", "Six drawn of six"),
    ],
    "most_pairs": [
        ("min(len(scores) // 2, len(scores) - commonest)", "len(scores) // 2", "partner"),
        ("min(len(scores) // 2, ", "min(len(np.unique(scores)) // 2, ", "more are possible"),
        ("min(len(scores) // 2, ", "min(len(scores), ", "more responses than"),
    ],
    "share_explained": [
        ("return ", "return 1 - ", "is 1"),
        (" / weight.var()", "", "is 1"),
        ("means.var() / weight.var()", "means.std() / weight.std()", "no roots"),
        (
            "means.var() / weight.var()",
            "means.var() / weight.var() * (group == 'w1').any()",
            "other names",
        ),
    ],
    "weights_without": [
        ("return weight", "return deviation_weights(e)", "must weigh 0"),
        ("return weight", "return weight[~broken]", "shape (8,)"),
        ("return weight", "return weight / 2", "are left"),
        ("deviation_weights(e[~broken])", "np.roll(deviation_weights(e[~broken]), 1)", "places"),
    ],
}


def line(scores, k):
    """Right for one story and for all."""
    low, high = np.mean(scores), np.max(scores)
    return low + (high - low) * (k - 1) / (len(scores) - 1)


def zeroed_and_scaled(e, broken):
    weight = np.where(broken, 0, deviation_weights(e))
    return weight * (~broken).sum() / weight.sum()


OTHERS = [
    ("set_diversity", lambda e: np.mean(1 - (e[1:] * e[:-1]).sum(axis=1)), "not neighbours only"),
    ("response_mask", lambda attention, n_prompt: attention, "shape (1, 5)"),
    ("response_mask", lambda attention, n_prompt: torch.full_like(attention[:, 1:], 7), "1 and 0"),
    ("log_odds_ratio", lambda *logps: abs(solution("log_odds_ratio")(*logps)), "change its sign"),
    ("log_odds_ratio", lambda w, lost: solution("log_odds_ratio")(lost, w), "below 0"),
    ("best_of", line, "Four of nine"),
    ("best_of", lambda scores, k: np.max(scores) if k == len(scores) else np.mean(scores), "drawn"),
    ("weights_without", lambda e, broken: np.where(broken, 0, deviation_weights(e)), "are left"),
    ("weights_without", zeroed_and_scaled, "still takes part"),
]
CASES = [(name, *change) for name, changes in CHANGED.items() for change in changes]


@pytest.mark.parametrize(("name", "old", "new", "part"), CASES)
def test_a_changed_solution_gets_the_sentence_about_its_fault(name, old, new, part):
    outcome = check(name, solution(name, old, new))
    assert not outcome and part in outcome.message, outcome.message


@pytest.mark.parametrize(("name", "answer", "part"), OTHERS)
def test_another_wrong_answer_gets_the_sentence_about_its_fault(name, answer, part):
    outcome = check(name, answer)
    assert not outcome and part in outcome.message, outcome.message


def test_every_exercise_has_three_wrong_answers():
    assert CHANGED.keys() == SOLUTIONS.keys() and min(map(len, CHANGED.values())) >= 3
