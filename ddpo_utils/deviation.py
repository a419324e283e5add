"""Deviation: how far a response lies from the other responses to its prompt, and the weights made of it.

Source: Chung et al., "Modifying Large Language Model Post-Training for Diverse Creative Writing",
arXiv 2503.17126, section 3. For the unit rows e_1..e_K of one prompt and S = sum_j e_j,

    raw_i   = mean_{j != i} (1 - e_i . e_j) = 1 - (e_i . S - 1) / (K - 1)       O(K d) in place of O(K^2 d)
    mm_i    = (raw_i - min raw) / (max raw - min raw)
    both_i  = (mm_i of encoder 1 * ... * mm_i of encoder m) ** (1/m)            geometric mean
    delta_i = z_i * K / sum z                                                   sums to K, mean 1

Arithmetic is in float64, some prompts at a time, so a corpus of any size, in float16 or mapped from a file, is read
in one pass and never copied whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

__all__ = ["Encoder", "compute_deviation", "deviation_weights", "diversity", "raw_deviation"]

# A range of cosine distances below this is no range. Encoders work in float32 and give one text embeddings
# that differ by about 1e-7 from batch to batch; min-max would blow that rounding up to weights 0 and K.
TIE = 1e-6
BLOCK = 2**17  # numbers read at a time: 1 MB in float64, which stays in the processor's cache


class Encoder(Protocol):
    """Anything with sentence-transformers' `encode`: texts in, an (N, d) array of unit rows out."""

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> Any: ...


def _check_rows(embeddings: Any, what: str = "embeddings") -> np.ndarray:
    try:
        rows = np.asarray(embeddings)
    except ValueError:  # numpy's own message names neither array nor row
        raise ValueError(
            f"The rows of {what} differ in length: give every response a row of one width."
        ) from None
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating):
        raise ValueError(
            f"{what} must be a 2-D array of floating-point numbers, one row a response; "
            f"got shape {rows.shape} of type {rows.dtype}."
        )
    if len(rows) == 0 or rows.shape[1] == 0:
        raise ValueError(f"{what} has shape {rows.shape}: it holds no response.")
    return rows


def _group_ids(groups: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Names (G,), sorted, and each row's position among them (N,)."""
    if groups is None:
        return np.zeros(1, dtype=int), np.zeros(n, dtype=np.intp)
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise ValueError(
            f"groups must hold one prompt id a row, {n} in all; got shape {groups.shape}."
        )
    try:
        missing = groups != groups  # NaN alone differs from itself
        if groups.dtype.kind in "biu":
            names, ids = np.unique(groups, return_inverse=True)
            ids = ids.reshape(n)
        else:  # texts: a dictionary finds the distinct ones faster than a sort of them all
            listed = groups.tolist()
            place = {name: i for i, name in enumerate(sorted(set(listed)))}
            names, ids = (
                np.array(list(place)),
                np.fromiter((place[name] for name in listed), np.intp, n),
            )
    except TypeError:  # None, or texts and numbers mixed
        i = next(i for i, g in enumerate(groups) if not isinstance(g, type(groups[0])))
        raise ValueError(
            f"groups[{i}] is {groups[i]!r} beside {groups[0]!r}: ids must be of one kind."
        ) from None
    if missing.any():
        raise ValueError(
            f"groups[{int(np.argmax(missing))}] is missing: give every response the id of its prompt."
        )
    return names, ids


def _unit_rows(rows: np.ndarray, index: np.ndarray, what: str) -> np.ndarray:
    """The rows at `index` (P, K) as float64 unit rows (P, K, d)."""
    unit = rows[index].astype(np.float64)
    squares = np.vecdot(unit, unit)
    bad = ~np.isfinite(squares) | (squares == 0)
    if bad.any():
        row, fault = int(index[bad][0]), "zeros only" if squares[bad][0] == 0 else "NaN or infinity"
        raise ValueError(
            f"Row {row} of {what} holds {fault}: encode that response again or leave it out."
        )
    unit *= (1 / np.sqrt(squares))[..., None]
    return unit


class _Grouped:
    """Rows sorted by prompt, with the sums that every closed form here needs.

    dots (N,): e_i . S of the row's own prompt; square (G,): |S|^2; both over re-normalised float64 rows.
    """

    def __init__(self, rows: np.ndarray, ids: np.ndarray, n_groups: int, what: str = "embeddings"):
        self.order = np.argsort(ids, kind="stable")
        self.counts = np.bincount(ids, minlength=n_groups)
        self.starts = np.cumsum(self.counts) - self.counts
        self.dots, self.square = np.empty(len(rows)), np.empty(n_groups)
        most = max(1, BLOCK // rows.shape[1])  # rows at a time
        for size in np.unique(self.counts).tolist():
            # P prompts with the same number of responses make one (P, K, d) block, without padding or a loop
            alike, step = np.flatnonzero(self.counts == size), max(1, most // size)
            for some in (alike[i : i + step] for i in range(0, len(alike), step)):
                places = self.starts[some][:, None] + np.arange(size)
                # a prompt larger than a block is read in parts, and twice: for its sum, then for the products
                parts = [places[:, j : j + most] for j in range(0, size, most)]
                sums = np.zeros((len(some), rows.shape[1]))
                for part in parts:
                    unit = _unit_rows(rows, self.order[part], what)
                    sums += unit.sum(axis=1)
                self.square[some] = np.vecdot(sums, sums)
                for part in parts:
                    unit = unit if len(parts) == 1 else _unit_rows(rows, self.order[part], what)
                    self.dots[part] = np.vecdot(unit, sums[:, None])

    def raw(self) -> np.ndarray:
        """Mean cosine distance to the other responses of the prompt (N,), in prompt order; 0 where K = 1."""
        k = np.repeat(self.counts, self.counts)
        return np.where(k == 1, 0.0, np.clip(1 - (self.dots - 1) / np.maximum(k - 1, 1), 0.0, 2.0))

    def back(self, values: np.ndarray) -> np.ndarray:
        out = np.empty_like(values)
        out[self.order] = values
        return out


def raw_deviation(embeddings: Any, groups: Any = None) -> np.ndarray:
    """Mean cosine distance of each response to the others of its prompt.

    Args:
        embeddings: (N, d) floating-point rows, of any length but zero; they are normalised here.
        groups: N prompt ids in any order; without them the rows are one prompt's responses.

    Returns:
        (N,) float64, 0 to 2; 0 for a prompt's only response.

    Raises:
        ValueError: not a 2-D float array, no row, a row with NaN, infinity or zeros only, ids of another length.

    Source: arXiv 2503.17126, section 3; the closed form equals the double loop to rounding.
    """
    rows = _check_rows(embeddings)
    names, ids = _group_ids(groups, len(rows))
    grouped = _Grouped(rows, ids, len(names))
    return grouped.back(grouped.raw())


def deviation_weights(*embeddings: Any, groups: Any = None, floor: float = 0.0) -> np.ndarray:
    """Weights delta_i that sum to K within each prompt: 0 for its commonest response, largest for its rarest.

    Args:
        embeddings: one or more (N, d_m) arrays over the same N responses, one an encoder; several are joined by
            the geometric mean of their min-max values ("both" in the paper: semantic and style).
        groups: N prompt ids in any order; without them the rows are one prompt's responses.
        floor: f in w = f + (1 - f) delta, 0 <= f <= 1: the smallest weight, with the sum still K.
            (The authors' code clamps at 0.2 instead, and then the sum is no longer K.)

    Returns:
        (N,) float64. Where an encoder sees no range (K = 1, K = 2, identical or tied responses: a range of
        distances below 1e-6) it has no say; where none has one, or every product is 0, every weight is 1.

    Raises:
        ValueError: no array, a faulty one (see `raw_deviation`), differing N, or a floor outside 0..1.

    Source: arXiv 2503.17126, section 3 (min-max, geometric mean, scaling to the sum K).
    """
    if not embeddings:
        raise ValueError("deviation_weights needs at least one (N, d) array of embeddings.")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must lie between 0 and 1; got {floor!r}.")
    arrays = [_check_rows(rows, f"embeddings[{i}]") for i, rows in enumerate(embeddings)]
    for i, rows in enumerate(arrays):
        if len(rows) != len(arrays[0]):
            raise ValueError(
                f"embeddings[{i}] has {len(rows)} rows and embeddings[0] has {len(arrays[0])}."
            )
    names, ids = _group_ids(groups, len(arrays[0]))
    product = np.ones(len(arrays[0]))
    for i, rows in enumerate(arrays):
        grouped = _Grouped(rows, ids, len(names), f"embeddings[{i}]")
        raw = grouped.raw()
        above = raw - np.repeat(np.minimum.reduceat(raw, grouped.starts), grouped.counts)
        above[above < TIE] = 0  # a tie with the commonest is the commonest
        span = np.repeat(np.maximum.reduceat(above, grouped.starts), grouped.counts)
        product *= np.divide(above, span, out=np.ones_like(above), where=span > 0)
    z = product ** (1 / len(arrays))
    total = np.repeat(np.add.reduceat(z, grouped.starts), grouped.counts)
    k = np.repeat(grouped.counts, grouped.counts)
    delta = np.divide(z * k, total, out=np.ones_like(z), where=total > 0)
    delta[k <= 2] = 1  # two responses are equally far from each other, whatever rounding says
    return grouped.back(floor + (1 - floor) * delta)


def diversity(embeddings: Any, groups: Any = None) -> float | np.ndarray:
    """Mean pairwise cosine distance of a set of responses, (K^2 - |S|^2) / (K (K - 1)) for unit rows with sum S.

    Its expected value does not depend on the number of responses, unlike Vendi score or distinct-n.

    Args:
        embeddings: (N, d) floating-point rows; normalised here.
        groups: N prompt ids in any order.

    Returns:
        A float; with `groups` (G,) float64, one a prompt in the order of `numpy.unique(groups)`.

    Raises:
        ValueError: faulty embeddings (see `raw_deviation`), or a prompt with fewer than two responses.

    Source: arXiv 2503.17126, section 4 (diversity of a prompt = mean pairwise distance of its samples).
    """
    rows = _check_rows(embeddings)
    names, ids = _group_ids(groups, len(rows))
    grouped = _Grouped(rows, ids, len(names))
    k = grouped.counts
    if (k < 2).any():
        which = "This set" if groups is None else f"Prompt {names[np.argmax(k < 2)]}"
        raise ValueError(
            f"{which} has one response, and diversity needs at least two: sample more, or leave it out."
        )
    values = np.maximum(0.0, (k.astype(float) ** 2 - grouped.square) / (k * (k - 1.0)))
    return float(values[0]) if groups is None else values


def compute_deviation(responses: Sequence[str], embedder: Encoder) -> np.ndarray:
    """Deviation weights of the K responses of one prompt.

    Args:
        responses: K texts.
        embedder: anything with `encode(list[str], normalize_embeddings=True)`, such as a SentenceTransformer.

    Returns:
        (K,) float64 that sums to K; all 1 where the responses have no range (K <= 2, identical, tied).

    Raises:
        ValueError: no response, one that is not text or is blank, or embeddings that are not K finite rows.

    Source: arXiv 2503.17126, section 3.
    """
    if isinstance(responses, str):
        raise ValueError("responses must be a list of texts, one a response; got a single text.")
    responses = list(responses)
    if not responses:
        raise ValueError("responses is empty: a prompt needs at least one response.")
    for i, text in enumerate(responses):
        if not isinstance(text, str):
            raise ValueError(f"Response {i} is {text!r}, not a text.")
        if not text.strip():
            raise ValueError(f"Response {i} is blank: leave it out before weighting.")
    rows = _check_rows(
        embedder.encode(responses, normalize_embeddings=True), "The embedder's output"
    )
    if len(rows) != len(responses):
        raise ValueError(
            f"The embedder gave {len(rows)} rows for {len(responses)} responses; expected one each."
        )
    return deviation_weights(rows)
