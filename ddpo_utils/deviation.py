"""Deviation: how far a response lies from the other responses to its prompt, and its weight.

For the unit rows e_1..e_K of one prompt's responses and their sum S:

    raw_i   = mean over j != i of (1 - e_i . e_j) = 1 - (e_i . S - 1) / (K - 1)
    mm_i    = (raw_i - min raw) / (max raw - min raw)
    both_i  = (mm_i of encoder 1 * ... * mm_i of encoder m) ** (1/m)
    delta_i = z_i * K / sum z,  z = mm or both          the weights sum to K

Two responses deviate alike, so both weigh 1, and DDPO on two responses a prompt (the usual
preference data) is DPO. The paper advises six or more.

Source: Chung et al., arXiv 2503.17126, section 3. The form with S takes O(K d), not O(K^2 d).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from reprlib import Repr
from typing import Any, Protocol

import numpy as np

__all__ = ["compute_deviation", "deviation_weights", "diversity", "raw_deviation"]

# A smaller range of distances is rounding: encoders work in float32, and the embeddings of one text
# differ by about 1e-7 from batch to batch. Min-max would turn that into weights of 0 and K.
TIE = 1e-6

LARGEST = float(np.finfo(np.float32).max)  # the losses and most encoders work in float32
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which no tokenizer takes


class Encoder(Protocol):
    """What `SentenceTransformer` has: texts to rows."""

    def encode(self, texts: list[str], /, *, normalize_embeddings: bool = ...) -> Any: ...


def compute_deviation(responses: Sequence[str], embedder: Encoder) -> np.ndarray:
    """Deviation weights (K,) of the K responses to one prompt; they sum to K, and are 1 if K <= 2.

    `embedder` has `encode(texts, normalize_embeddings=True)`, as SentenceTransformer has it.

    Raises:
        ValueError: there is no response, one is blank or no text, or the embeddings are not K rows.
    """
    texts = to_list(responses, "responses")
    if not texts or not hasattr(embedder, "encode") or isinstance(embedder, str):
        raise ValueError("Give at least one response, and an embedder with a method `encode`.")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip() or SURROGATE.search(text):
            raise ValueError(f"Response {i} is {brief(text)}: give a whole text that is not blank.")
    rows = _check_rows(embedder.encode(texts, normalize_embeddings=True), "The embedder's output")
    if len(rows) != len(texts):
        raise ValueError(f"The embedder gave {len(rows)} rows for {len(texts)} responses.")
    return deviation_weights(rows)


def raw_deviation(embeddings: Any, groups: Any = None) -> np.ndarray:
    """Mean cosine distance of each response to the others of its prompt, (N,) float64, 0 to 2.

    Args:
        embeddings: (N, d) floats, an array, tensor or list of rows; they are normalised here.
        groups: N prompt ids in any order; None: all rows belong to one prompt.

    Raises:
        ValueError: the rows are no 2-D float array, one is zero or not finite, or an id is missing.
    """
    rows = _check_rows(embeddings)
    raw = np.empty(len(rows))
    for positions in _positions_by_group(groups, len(rows)).values():
        raw[positions] = _mean_distances(_unit_rows(rows, positions))
    return raw


def deviation_weights(*embeddings: Any, groups: Any = None, floor: float = 0.0) -> np.ndarray:
    """Weights delta (N,) that sum to K within each prompt; its commonest response has 0.

    An encoder that sees no range in a prompt (K <= 2, or distances within 1e-6) does not count
    there. Where none counts, or every product is 0, every weight is 1.

    Args:
        embeddings: (N, d) arrays, one for each encoder; several are joined by the geometric mean.
        groups: as in `raw_deviation`.
        floor: f in f + (1 - f) delta, 0 to 1: the smallest weight. The sum stays K.

    Raises:
        ValueError: no array, different N, a faulty array or id, or a floor outside 0..1.
    """
    if not embeddings or not is_number(floor) or floor > 1:
        raise ValueError(
            f"Give at least one array, and a floor between 0 and 1; got {brief(floor)}."
        )
    arrays = [_check_rows(rows, f"embeddings[{i}]") for i, rows in enumerate(embeddings)]
    n = len(arrays[0])
    if any(len(rows) != n for rows in arrays):
        raise ValueError(f"embeddings must have one N; got {[len(rows) for rows in arrays]}.")
    weights = np.ones(n)
    for positions in _positions_by_group(groups, n).values():
        k = len(positions)
        z = np.ones(k)
        for i, rows in enumerate(arrays):
            raw = _mean_distances(_unit_rows(rows, positions, f"embeddings[{i}]"))
            above = raw - raw.min()
            above[above < TIE] = 0  # a tie with the commonest response is the commonest response
            if above.max() > 0:
                z *= above / above.max()
        z **= 1 / len(arrays)
        total = np.add.reduceat(z, [0])[0]  # in the order of the weights on record
        if total > 0:
            weights[positions] = z * k / total
    return floor + (1 - floor) * weights


def diversity(embeddings: Any, groups: Any = None) -> float | np.ndarray:
    """Mean pairwise cosine distance of a set of responses: (K^2 - |S|^2) / (K (K - 1)).

    With `groups` a (G,) float64 array in the sorted order of the ids, else a float.

    Raises:
        ValueError: faulty rows or ids (see `raw_deviation`), or a prompt with a single response.

    Source: arXiv 2503.17126, section 4.
    """
    rows = _check_rows(embeddings)
    values = []
    for name, positions in _positions_by_group(groups, len(rows)).items():
        k = len(positions)
        if k < 2:
            which = "This set" if groups is None else f"Prompt {name}"
            raise ValueError(f"{which} has one response, and diversity needs two: sample more.")
        total = _unit_rows(rows, positions).sum(axis=0)
        values.append(max(0.0, (k**2 - total @ total) / (k * (k - 1))))
    return float(values[0]) if groups is None else np.array(values)


def _mean_distances(unit: np.ndarray) -> np.ndarray:
    """Mean distance of each of K unit rows to the others (K,); 0 where there is no other."""
    closeness = np.vecdot(unit, unit.sum(axis=0))  # e_i . S, of which 1 is e_i . e_i
    distances = 1 - (closeness - 1) / max(1, len(unit) - 1)
    return np.clip(distances, 0.0, 2.0) if len(unit) > 1 else np.zeros(1)


def is_number(value: Any, low: float = 0.0) -> bool:
    """Whether the value is a number from `low` to float32's largest; NaN and True are none."""
    kinds = int | float | np.integer | np.floating
    return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= LARGEST


def to_list(items: Any, name: str) -> list[Any]:
    """The items of a list, array, tensor or series, as Python's own objects; else ValueError."""
    try:
        if isinstance(items, str | bytes | dict | set | frozenset):
            raise TypeError
        values = items.tolist() if hasattr(items, "tolist") else list(items)
        return list(map(_to_python, values))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a list; got {brief(items)}.") from None


def _to_python(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def check_numbers(items: Any, name: str, low: float = 0.0) -> list[float]:
    """The items as numbers; ValueError names the first that is no finite number from `low`."""
    values = to_list(items, name)
    for i, value in enumerate(values):
        if not is_number(value, low):
            fault = f"{name} of pair {i} is {brief(value)}"
            raise ValueError(f"{fault}: give a finite number, {low:g} at least.")
    return values


def brief(value: Any) -> str:
    """The value's `repr` in a line that fits a sentence, also of nested or endless values."""
    cut = Repr()
    cut.maxstring = cut.maxlong = cut.maxother = 60
    cut.maxlevel = cut.maxlist = cut.maxtuple = cut.maxdict = 2
    try:
        return " ".join(cut.repr(value).split())
    except ValueError:  # more digits than Python prints
        return f"such a long {type(value).__name__}"


def _check_rows(embeddings: Any, name: str = "embeddings") -> np.ndarray:
    """The embeddings as an array (N, d) of floating-point numbers."""
    try:
        if isinstance(embeddings, list | tuple):  # sentence-transformers gives lists of tensors
            embeddings = [_to_array(row) for row in embeddings]
        rows = _to_array(embeddings)
    except (TypeError, ValueError, RuntimeError):  # such as rows of different lengths
        rows = np.empty(0)
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating) or 0 in rows.shape:
        shape = f"shape {rows.shape} of {rows.dtype}"
        raise ValueError(f"{name} must be a 2-D array of floats, a row a response; got {shape}.")
    return rows


def _to_array(values: Any) -> np.ndarray:
    """The values as an array; NumPy by itself refuses gradients and bfloat16, and drops masks."""
    if hasattr(values, "detach"):  # a torch tensor
        half = values.is_floating_point() and values.element_size() < 4
        values = (values.float() if half else values).detach().to_dense().numpy(force=True)
    return np.ma.filled(values, np.nan) if np.ma.is_masked(values) else np.asarray(values)


def _unit_rows(rows: np.ndarray, positions: Any, name: str = "embeddings") -> np.ndarray:
    """The rows at `positions` in float64, each of length 1."""
    unit = rows[positions].astype(np.float64)
    norms = np.sqrt(np.vecdot(unit, unit))
    faulty = ~np.isfinite(norms) | (norms == 0)
    if faulty.any():
        row = positions[faulty][0]
        raise ValueError(f"Row {row} of {name} is zero or not finite: encode that response again.")
    return unit * (1 / norms)[:, None]


def _positions_by_group(groups: Any, n: int) -> dict[Any, np.ndarray]:
    """The positions of each prompt's rows, the prompts sorted by id."""
    if groups is None:
        return {None: np.arange(n)}
    ids = to_list(groups, "groups")
    if len(ids) != n:
        raise ValueError(f"groups must hold one prompt id a row, {n} in all; got {len(ids)}.")
    positions: dict[Any, list[int]] = {}
    for i, name in enumerate(ids):
        known = isinstance(name, str | int | float) and type(name) is type(ids[0])
        if not known or name != name:
            raise ValueError(
                f"groups[{i}] is {brief(name)}: give numbers or texts, all of one kind."
            )
        positions.setdefault(name, []).append(i)
    return {name: np.array(positions[name]) for name in sorted(positions)}
