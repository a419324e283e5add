"""Deviation against a literal double loop over the formulas, and everything it must refuse or survive."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ddpo_utils.deviation as deviation
from ddpo_utils import deviation_weights, diversity, raw_deviation


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


trial = {
    "seed": st.integers(0, 2**32 - 1),
    "d": st.integers(1, 12),
    "dtype": st.sampled_from(["f2", "f4", "f8"]),
}


@settings(max_examples=800, deadline=None, derandomize=True)
@given(
    k=st.integers(1, 12), m=st.integers(1, 3), floor=st.sampled_from([0.0, 0.1, 0.5, 1.0]), **trial
)
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


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    m=st.integers(1, 2),
    text=st.booleans(),
    **trial,
)
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
        assert np.allclose(
            weights[own],
            deviation_weights(*(a[own] for a in arrays), floor=0.25),
            rtol=0,
            atol=1e-6,
        )
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
            assert deviation_weights(
                *(rng.normal(size=(2, d)).astype(dtype) for _ in range(m))
            ).tolist() == [1.0, 1.0]


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
    assert np.allclose(
        raw_deviation(rows), raw_deviation(rows.astype(np.float64)), rtol=0, atol=1e-14
    )
    groups = np.arange(600) % 50
    assert np.allclose(
        deviation_weights(rows, groups=groups), deviation_weights(rows.astype("f8"), groups=groups)
    )


@pytest.mark.parametrize("rows_at_a_time", [1, 2, 7, 40, 1000])
def test_blocks_of_any_size_give_the_same(monkeypatch, rows_at_a_time):
    """Blocks of many prompts, of one, and prompts that are larger than a block."""
    rng = np.random.default_rng(8)
    groups = rng.permutation(np.repeat(np.arange(12), [1, 1, 2, 2, 3, 3, 3, 5, 8, 8, 23, 50]))
    rows = draw_rows(rng, len(groups), 23, "f8")
    monkeypatch.setattr(deviation, "BLOCK", rows_at_a_time * 23)
    raw, weights = raw_deviation(rows, groups), deviation_weights(rows, rows**2, groups=groups)
    values = diversity(rows, groups // 2)
    for g in range(12):
        own = groups == g
        assert np.allclose(raw[own], loop_raw(rows[own]), rtol=0, atol=1e-12)
        assert np.allclose(
            weights[own], loop_weights([rows[own], rows[own] ** 2]), rtol=0, atol=1e-6
        )
    assert np.allclose(
        values, [loop_diversity(rows[groups // 2 == g]) for g in range(6)], rtol=0, atol=1e-12
    )


def test_one_enormous_prompt():
    rng = np.random.default_rng(11)
    rows = (rng.normal(size=(30_000, 16)) + 1).astype(np.float16)
    unit = rows.astype(float) / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    for i in (0, 17, 29_999):
        distances = 1 - unit @ unit[i]
        assert raw_deviation(rows)[i] == pytest.approx(distances.sum() / 29_999, abs=1e-12)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "g"])
def test_rows_mapped_from_a_file_are_read_and_left_alone(tmp_path, dtype):
    rng = np.random.default_rng(12)
    rows, groups = draw_rows(rng, 60, 5, dtype), rng.integers(0, 9, 60)
    rows.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", dtype=dtype, mode="r", shape=rows.shape)
    assert np.array_equal(
        deviation_weights(mapped, groups=groups), deviation_weights(rows, groups=groups)
    )
    assert (tmp_path / "rows").read_bytes() == rows.tobytes()


@pytest.mark.parametrize("kind", ["int", "negative", "float", "text", "object", "bytes", "pandas"])
def test_prompt_ids_of_any_kind_come_in_the_order_of_unique(kind):
    numbers = np.array([3, 1, 2, 1, 3, 1, 2, 3])
    texts = np.array(["", "Zoë", "a", "zz"])[numbers]
    ids = {
        "int": numbers,
        "negative": -numbers,
        "float": numbers / 2,
        "text": texts,
        "object": texts.astype(object),
        "bytes": numbers.astype("S1"),
        "pandas": pd.Series(texts),
    }[kind]
    rows = np.random.default_rng(13).normal(size=(8, 4))
    plain = np.asarray(ids)
    expected = [loop_diversity(rows[plain == name]) for name in np.unique(plain)]
    assert np.allclose(diversity(rows, groups=ids), expected, rtol=0, atol=1e-12)


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
