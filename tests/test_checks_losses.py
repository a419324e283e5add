"""Exercises of notebooks 03, 04 and 06: right answers pass, and each plausible wrong one is told what is wrong."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from ddpo_utils import ddpo_loss, dorpo_loss
from ddpo_utils.checks import check


def pair(pi_w, pi_l, ref_w, ref_l, beta):
    margin = beta * (math.log(pi_w / ref_w) - math.log(pi_l / ref_l))
    return math.log1p(math.exp(-margin))


def no_reference(pi_w, pi_l, ref_w, ref_l, beta):
    return math.log1p(math.exp(-beta * math.log(pi_w / pi_l)))


def beta_outside(pi_w, pi_l, ref_w, ref_l, beta):
    return beta * pair(pi_w, pi_l, ref_w, ref_l, 1.0)


def no_beta(pi_w, pi_l, ref_w, ref_l, beta):
    return pair(pi_w, pi_l, ref_w, ref_l, 1.0)


def sides_changed(pi_w, pi_l, ref_w, ref_l, beta):
    return pair(pi_l, pi_w, ref_l, ref_w, beta)


def no_logarithms(pi_w, pi_l, ref_w, ref_l, beta):
    return math.log1p(math.exp(-beta * (pi_w / ref_w - pi_l / ref_l)))


def sigmoid_alone(pi_w, pi_l, ref_w, ref_l, beta):
    return -math.exp(-pair(pi_w, pi_l, ref_w, ref_l, beta))


def beta_on_the_winner(pi_w, pi_l, ref_w, ref_l, beta):
    return math.log1p(math.exp(math.log(pi_l / ref_l) - beta * math.log(pi_w / ref_w)))


def mask(attention_mask, n_prompt):
    place = torch.arange(attention_mask.shape[1])
    return ((place >= n_prompt[:, None]) & (attention_mask == 1))[:, 1:]


def not_shifted(attention_mask, n_prompt):
    return (torch.arange(attention_mask.shape[1]) >= n_prompt[:, None]) & (attention_mask == 1)


def place_of_the_output(attention_mask, n_prompt):
    return not_shifted(attention_mask, n_prompt)[:, :-1]


def one_too_early(attention_mask, n_prompt):
    return mask(attention_mask, n_prompt - 1)


def padding_counted(attention_mask, n_prompt):
    return (torch.arange(1, attention_mask.shape[1]) >= n_prompt[:, None]).long()


def first_prompt_for_all(attention_mask, n_prompt):
    return mask(attention_mask, n_prompt[:1].expand(len(n_prompt)))


def end_left_out(attention_mask, n_prompt):
    ends = torch.arange(1, attention_mask.shape[1]) == attention_mask.sum(1, keepdim=True) - 1
    return mask(attention_mask, n_prompt) & ~ends


def log_mask(attention_mask, n_prompt):
    return torch.where(mask(attention_mask, n_prompt), 0.0, -100.0)


def losses(policy_w, policy_l, ref_w, ref_l, beta):
    return -F.logsigmoid(beta * ((policy_w - ref_w) - (policy_l - ref_l)))


def weighted_mean(policy_w, policy_l, ref_w, ref_l, weight, beta):
    return (weight * losses(policy_w, policy_l, ref_w, ref_l, beta)).sum() / weight.sum()


def summed(policy_w, policy_l, ref_w, ref_l, weight, beta):
    return (weight * losses(policy_w, policy_l, ref_w, ref_l, beta)).sum()


def weight_inside(policy_w, policy_l, ref_w, ref_l, weight, beta):
    return losses(policy_w, policy_l, ref_w, ref_l, weight * beta).mean()


def mean_weight(policy_w, policy_l, ref_w, ref_l, weight, beta):
    return weight.mean() * losses(policy_w, policy_l, ref_w, ref_l, beta).mean()


def weighted_once_each(policy_w, policy_l, ref_w, ref_l, weight, beta):
    kept = weight > 0
    return (weight * losses(policy_w, policy_l, ref_w, ref_l, beta))[kept].mean()


def weight_for(share, wins_a, wins_b):
    return share * wins_b / ((1 - share) * wins_a)


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


def token_ratio(w, l):  # noqa: E741
    p, q = w.mean().exp(), l.mean().exp()
    return torch.log(p / (1 - p)) - torch.log(q / (1 - q))


def of_sums(w, l):  # noqa: E741
    p, q = w.sum().exp(), l.sum().exp()
    return torch.log(p / (1 - p)) - torch.log(q / (1 - q))


def of_probabilities(w, l):  # noqa: E741
    return w.mean() - l.mean()


def without_logarithm(w, l):  # noqa: E741
    p, q = w.mean().exp(), l.mean().exp()
    return p / (1 - p) / (q / (1 - q))


def arithmetic_mean(w, l):  # noqa: E741
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


def clipped(w, l):  # noqa: E741
    p, q = w.mean().exp().clamp(max=0.99), l.mean().exp()
    return torch.log(p / (1 - p)) - torch.log(q / (1 - q))


RIGHT = {
    "loss_of_a_pair": pair,
    "response_mask": mask,
    "ddpo_by_hand": lambda pw, pl, rw, rl, weight, beta: (weight * losses(pw, pl, rw, rl, beta)).mean(),
    "weight_for_a_share": weight_for,
    "shuffle_within": shuffled,
    "weighted_rows": aligned,
    "lora_numbers": lora,
    "log_odds_ratio": token_ratio,
    "pooled_likelihood": pooled,
    "dorpo_by_hand": all_of_dorpo,
}
WRONG = [
    ("loss_of_a_pair", no_reference, r"ln 2 for every pair and every beta; for probabilities 0\.2 and 0\.05"),
    ("loss_of_a_pair", beta_outside, r"ln 2 .* beta 0\.1 yours is 0\.069"),
    ("loss_of_a_pair", sides_changed, "your loss did not fall: look at the signs"),
    ("loss_of_a_pair", no_logarithms, r"your loss is 0\.313: go through steps 1 to 3"),
    ("loss_of_a_pair", no_beta, r"with beta 0\.5 it is not"),
    ("loss_of_a_pair", beta_on_the_winner, r"with beta 0\.5 it is not"),
    ("loss_of_a_pair", sigmoid_alone, r"yours is -0\.500"),
    ("response_mask", not_shifted, r"of 6 tokens 5 are targets.*\(1, 5\); yours has \(1, 6\)"),
    ("response_mask", place_of_the_output, "one text without padding your mask leaves out the first token"),
    ("response_mask", one_too_early, "one text without padding your mask counts a token of the prompt"),
    ("response_mask", padding_counted, "with padding at the end your mask counts padding"),
    ("response_mask", first_prompt_for_all, "two prompts of different lengths your mask counts a token of the prompt"),
    ("response_mask", end_left_out, "leaves out the last token of a response"),
    ("response_mask", log_mask, "says yes or no for each target"),
    ("ddpo_by_hand", weighted_mean, r"Weights of 3 .* yours give 1\.00 times"),
    ("ddpo_by_hand", summed, r"for six pairs yours is 6\.00 times that"),
    ("ddpo_by_hand", weight_inside, r"Weights of 3 must give three times .* a plain product"),
    ("ddpo_by_hand", mean_weight, "each pair has its own weight"),
    ("ddpo_by_hand", weighted_once_each, "is the sum divided by the number of pairs"),
    ("ddpo_by_hand", lambda pw, pl, rw, rl, d, b: -(d * losses(pw, pl, rw, rl, b)).mean(), r"is -1\.00 times that"),
    ("weight_for_a_share", lambda p, a, b: 1 / weight_for(p, a, b), r"end at 0\.90 and not at the wanted 0\.5"),
    ("weight_for_a_share", lambda p, a, b: p / (1 - p), r"asks for the weight 1; yours is 3\.00"),
    ("weight_for_a_share", lambda p, a, b: 1 + math.log(p * b / (1 - p) / a), "A weight of 0 or less never"),
    ("weight_for_a_share", lambda p, a, b: b / a, r"asks for the weight 1; yours is 0\.33"),
    ("weight_for_a_share", lambda p, a, b: p * (a + b) / a, r"your weight of 0\.67 makes training end at 0\.67"),
    ("weight_for_a_share", lambda p, a, b: 1 + p - a / (a + b), "makes training end at"),
    ("shuffle_within", across_prompts, "Prompt p. got a weight that belonged to another prompt"),
    ("shuffle_within", in_blocks, "Prompt p. got a weight that belonged to another prompt"),
    ("shuffle_within", drawn_again, "some weight occurs twice and another is gone"),
    ("shuffle_within", turned_round, "sixty times the same deal"),
    ("shuffle_within", lambda weight, prompt_id, rng: weight, "your control is DDPO itself"),
    ("shuffle_within", pushed_on, "every place must be open to every weight"),
    ("weighted_rows", planted, r"All the right weights are there, but \d+ of 12 pairs have another pair's"),
    ("weighted_rows", weights_sorted_too, r"All the right weights are there, but \d of 4"),
    ("weighted_rows", sorting_dropped, "must still run from the largest gap to the smallest"),
    ("weighted_rows", by_the_label_of_the_pair, r"Some pair has no weight \(NaN\)"),
    ("weighted_rows", by_position, "the weight is not that of the story in `chosen_row`"),
    ("weighted_rows", of_the_loser, "the weight of its loser"),
    ("weighted_rows", first_pair_lost, "Some of the pairs are lost"),
    ("weighted_rows", lambda pairs, weight_of: aligned(pairs, weight_of)["weight"], "return the frame of pairs"),
    ("lora_numbers", lambda n, maps, r: n * sum(a * b for a, b in maps) * r, "40,000 numbers; the map has 10,000"),
    ("lora_numbers", lambda n, maps, r: n * sum(r * a for a, _ in maps), "inputs and outputs changed over"),
    ("lora_numbers", lambda n, maps, r: sum(r * (a + b) for a, b in maps), r"yours have 1\.00 times"),
    ("lora_numbers", lambda n, maps, r: n * sum(a + b for a, b in maps), r"Twice the rank .* yours are 1\.00 times"),
    ("lora_numbers", lambda n, maps, r: lora(n, maps[:1], r), "The maps of a layer must add up"),
    ("lora_numbers", lambda n, maps, r: 2 * lora(n, maps, r), "you count 8,080: write down both shapes"),
    ("log_odds_ratio", of_sums, "I repeated the tokens of the chosen response"),
    ("log_odds_ratio", of_probabilities, r"yours is 1\.10: go through steps 2 to 4"),
    ("log_odds_ratio", without_logarithm, r"against itself has the log odds ratio 0; yours is 1\.00"),
    ("log_odds_ratio", lambda w, lost: token_ratio(w, lost).abs(), "must only change its sign"),
    ("log_odds_ratio", clipped, "one whose tokens are nearly certain is not"),
    ("log_odds_ratio", arithmetic_mean, r"two responses on paper yours is"),
    ("log_odds_ratio", lambda w, lost: token_ratio(lost, w), "your ratio is below 0"),
    ("pooled_likelihood", lambda nll, t, w: w.mean() * nll.sum() / t.sum(), "it does not know whose weight it is"),
    ("pooled_likelihood", lambda nll, t, w: (w * nll / t).mean(), "every token has the same say"),
    ("pooled_likelihood", lambda nll, t, w: (w * nll).sum() / (w * t).sum(), r"Weights of 3 .* yours give 1\.00 times"),
    ("pooled_likelihood", lambda nll, t, w: (w.flip(0) * nll).sum() / t.sum(), "whose tokens does each weight meet"),
    ("pooled_likelihood", lambda nll, t, w: (w * nll).sum(), r"yours is 45\.00 times that"),
    ("dorpo_by_hand", outside, "on which side of the sigmoid does the weight stand"),
    ("dorpo_by_hand", likelihood_unweighted, r"must double the part from the likelihood; yours is 1\.00 times"),
    ("dorpo_by_hand", penalty_summed, "With weights of 1 DORPO is ORPO"),
    ("dorpo_by_hand", penalty_taken_off, "With weights of 1 DORPO is ORPO"),
    ("dorpo_by_hand", mean_of_weights, "each pair's likelihood and odds meet that pair's own weight"),
]  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_the_solution_passes(name, capsys):
    assert check(name, RIGHT[name])
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(("name", "answer", "says"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, says):
    outcome = check(name, answer)
    assert not outcome
    assert re.search(says, outcome.says), outcome.says


def test_every_exercise_here_has_three_wrong_answers():
    counts = Counter(name for name, _, _ in WRONG)
    assert set(counts) == set(RIGHT) and min(counts.values()) >= 3


def test_the_package_s_own_losses_pass():
    assert check("ddpo_by_hand", ddpo_loss)

    def by_package(lo, nll, tokens, weight, lam):
        """Log-probs of one token each whose log odds ratio is `lo`."""
        losing = torch.full_like(lo, -2.0)
        odds = torch.exp(lo + torch.log(losing.exp() / (1 - losing.exp())))
        return dorpo_loss(torch.log(odds / (1 + odds)), losing, [1] * 3, [1] * 3, nll, tokens, weight, lam)

    assert check("dorpo_by_hand", by_package)


def test_the_planted_fault_is_silent_on_sorted_pairs():
    """What makes it worth an exercise: nothing fails where the pairs happen to come in order."""
    pairs = pd.DataFrame({"chosen_row": [7, 3], "rejected_row": [1, 2], "gap": [3.0, 1.0]})
    weight_of = pd.Series({1: 0.1, 2: 0.2, 3: 0.3, 7: 0.7})
    assert planted(pairs, weight_of).equals(aligned(pairs, weight_of))
    assert not planted(pairs[::-1], weight_of).equals(aligned(pairs[::-1], weight_of))
