"""Exercises of notebook 03: right answers pass, and each plausible wrong one is told what is wrong."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from checked import assert_enough, assert_right, assert_told


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


RIGHT = {
    "loss_of_a_pair": pair,
    "response_mask": mask,
    "ddpo_by_hand": lambda pw, pl, rw, rl, weight, beta: (
        weight * losses(pw, pl, rw, rl, beta)
    ).mean(),
    "weight_for_a_share": weight_for,
}
WRONG = [
    (
        "loss_of_a_pair",
        no_reference,
        r"ln 2 for every pair and every beta; for probabilities 0\.2 and 0\.05",
    ),
    ("loss_of_a_pair", beta_outside, r"ln 2 .* beta 0\.1 yours is 0\.069"),
    ("loss_of_a_pair", sides_changed, "your loss did not fall: look at the signs"),
    ("loss_of_a_pair", no_logarithms, r"your loss is 0\.313: go through steps 1 to 3"),
    ("loss_of_a_pair", no_beta, r"with beta 0\.5 it is not"),
    ("loss_of_a_pair", beta_on_the_winner, r"with beta 0\.5 it is not"),
    ("loss_of_a_pair", sigmoid_alone, r"yours is -0\.500"),
    ("response_mask", not_shifted, r"of 6 tokens 5 are targets.*\(1, 5\); yours has \(1, 6\)"),
    (
        "response_mask",
        place_of_the_output,
        "one text without padding your mask leaves out the first token",
    ),
    (
        "response_mask",
        one_too_early,
        "one text without padding your mask counts a token of the prompt",
    ),
    ("response_mask", padding_counted, "with padding at the end your mask counts padding"),
    (
        "response_mask",
        first_prompt_for_all,
        "two prompts of different lengths your mask counts a token of the prompt",
    ),
    ("response_mask", end_left_out, "leaves out the last token of a response"),
    ("response_mask", log_mask, "says yes or no for each target"),
    ("ddpo_by_hand", weighted_mean, r"Weights of 3 .* yours give 1\.00 times"),
    ("ddpo_by_hand", summed, r"for six pairs yours is 6\.00 times that"),
    ("ddpo_by_hand", weight_inside, r"Weights of 3 must give three times .* a plain product"),
    ("ddpo_by_hand", mean_weight, "each pair has its own weight"),
    ("ddpo_by_hand", weighted_once_each, "is the sum divided by the number of pairs"),
    (
        "ddpo_by_hand",
        lambda pw, pl, rw, rl, d, b: -(d * losses(pw, pl, rw, rl, b)).mean(),
        r"is -1\.00 times that",
    ),
    (
        "weight_for_a_share",
        lambda p, a, b: 1 / weight_for(p, a, b),
        r"end at 0\.90 and not at the wanted 0\.5",
    ),
    ("weight_for_a_share", lambda p, a, b: p / (1 - p), r"asks for the weight 1; yours is 3\.00"),
    (
        "weight_for_a_share",
        lambda p, a, b: 1 + math.log(p * b / (1 - p) / a),
        "A weight of 0 or less never",
    ),
    ("weight_for_a_share", lambda p, a, b: b / a, r"asks for the weight 1; yours is 0\.33"),
    (
        "weight_for_a_share",
        lambda p, a, b: p * (a + b) / a,
        r"your weight of 0\.67 makes training end at 0\.67",
    ),
    ("weight_for_a_share", lambda p, a, b: 1 + p - a / (a + b), "makes training end at"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_the_solution_passes(name, capsys):
    assert_right(name, RIGHT[name], lambda: capsys.readouterr().out)


@pytest.mark.parametrize(("name", "answer", "says"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, says):
    assert_told(name, answer, says)


def test_every_exercise_has_three_wrong_answers():
    assert_enough(RIGHT, WRONG)
