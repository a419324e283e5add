"""How many different things a set of texts holds: the Vendi score, and classes of texts that count as one.

Both work on an encoder's rows. What "different" means is the encoder's choice: matter for a semantic one, manner for
a style encoder. Both depend on the size of the set: compare sets of one size alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..deviation import TIE, raw_deviation

__all__ = ["distinct_k", "equivalence_classes", "vendi_score"]


def _unit(rows: Any) -> np.ndarray:
    """The rows in float64, each of length 1."""
    raw_deviation(rows)  # says what is wrong with faulty rows
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def vendi_score(rows: Any) -> float:
    """Effective number of different texts in a set: exp of the entropy of the eigenvalues of K / N, K the cosines.

    1 where all rows are the same, N where they are orthogonal. The sign of a cosine is lost: two opposite rows score 1,
    as two identical ones do, which matters for centred encoders such as the stylometric one.

    Args:
        rows: (N, d) floating-point rows; normalised here.

    Raises:
        ValueError: faulty rows (see `deviation.raw_deviation`).

    Source: Friedman and Dieng, "The Vendi Score", arXiv 2210.02410, definition 3.1. The eigenvalues of K / N are the
    squared singular values of the unit rows over N, which are never negative and need no K.
    """
    unit = _unit(rows)
    p = np.linalg.svd(unit, compute_uv=False) ** 2 / len(unit)
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def equivalence_classes(rows: Any, threshold: float) -> np.ndarray:
    """NoveltyBench's partition of a set: one text after another joins the first class that it is alike to, or founds
    a new one.

    Alike means a cosine of at least `threshold` to the class's founder. The paper compares with a random member of each
    class, its released code with the founder, as here: so the partition depends on the order of the rows, and on
    nothing else. The paper decides likeness by a DeBERTa classifier trained on people's judgements of what a second
    text adds for somebody who has read the first (yimingzhang/deberta-v3-large-generation-similarity). Without the Hub
    it cannot be had, and a cosine is no such judgement: the threshold must be chosen and tested on texts whose classes
    are known (`contrasts.distinct_threshold`), and stated.

    Args:
        rows: (N, d) floating-point rows; normalised here.
        threshold: smallest cosine at which two texts count as one, -1 to 1.

    Returns:
        (N,) whole numbers: each text's class, numbered from 0 in the order of their founders.

    Raises:
        ValueError: faulty rows, or a threshold outside -1..1.

    Source: Zhang et al., "NoveltyBench", arXiv 2504.05228, section on functional equivalence.
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold is a cosine, -1 to 1; got {threshold!r}.")
    unit = _unit(rows)
    alike = unit @ unit.T >= threshold - TIE  # a text is alike to itself whatever rounding says
    classes = np.full(len(unit), -1)
    for founder in range(len(unit)):
        if classes[founder] < 0:
            classes[(classes < 0) & alike[founder]] = classes.max() + 1
    return classes


def distinct_k(rows: Any, threshold: float) -> int:
    """Number of classes among the K texts of a set, 1 to K (see `equivalence_classes`); larger = more diverse.

    Raises:
        ValueError: as `equivalence_classes`.

    Source: arXiv 2504.05228, distinct_k.
    """
    return int(equivalence_classes(rows, threshold).max()) + 1
