"""Deviation weights for a preference dataset: prompt, chosen, rejected, as TRL's DPO reads it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..deviation import Encoder, deviation_weights, diversity
from ..extras import needs
from ..settings import CourseError, course_errors, progress_bar
from .text import read_messages, same_text

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ["prompt", "chosen", "rejected"]
READ_AT_ONCE = 1_000  # rows of the dataset
BLOCK = 8_192  # responses whose embeddings are in memory at the same time, and a prompt's rest
FEW = 3  # with fewer responses every weight of a prompt is 1
TRIED_LENGTHS = 16  # lengths of the longest text at which an encoder's limit is looked for
SAME_ROW = 1e-5  # cosine distance below which an encoder has read nothing new


@needs("trainers")
def add_weights(
    dataset: Dataset, *embedders: Encoder, floor: float = 0.0, mean_one: bool = False
) -> Dataset:
    """The dataset with a column `weight`: the deviation weight of each row's chosen response.

    The responses of a prompt are the distinct texts that occur as chosen or rejected in any of its
    rows. Texts that differ in white space or Unicode form only are one. Each is encoded once, in
    blocks of whole prompts, so the embeddings of a large dataset are never in memory together.
    Printed are the numbers of prompts and responses, and how much of long texts an encoder reads.

    Args:
        dataset: columns prompt, chosen, rejected, each a text or a list of messages. The prompt's
            system text and earlier turns count as part of the prompt.
        embedders: one, or several that are joined by the geometric mean; see `deviation_weights`.
        floor: smallest weight, 0 to 1; see `deviation_weights`.
        mean_one: w_i N / sum_j w_j over the N rows in place of w_i; AdamW cancels this factor.

    Raises:
        CourseError: no embedder, a missing column, a row without text, a streamed dataset, or
            embeddings that `deviation_weights` refuses.

    Source: Chung et al., arXiv 2503.17126, sections 3 and 4.
    """
    _check(dataset, embedders)
    columns = dataset.select_columns(COLUMNS)
    found = []  # of each side of each row, where it is, not its text: that would fill the memory
    for start in progress_bar(range(0, len(columns), READ_AT_ONCE), desc="pairs"):
        batch = columns[start : start + READ_AT_ONCE]
        for row, (prompt, *pair) in enumerate(zip(*batch.values(), strict=True), start):
            asked = _digest(prompt, f"prompt of row {row}")
            for column, response in zip(COLUMNS[1:], pair, strict=True):
                digest = _digest(response, f"{column} of row {row}")
                if isinstance(response, str) != isinstance(prompt, str):
                    raise CourseError(f"Row {row} holds a text and messages: TRL takes one kind.")
                found.append((asked, digest, row, column, len(_text(response))))
    sides = pd.DataFrame(found, columns=["prompt", "digest", "row", "column", "characters"])
    by_text = sides.groupby(["prompt", "digest"], sort=False)
    rows = by_text.ngroup().to_numpy().reshape(-1, 2)  # numbers of chosen and rejected
    responses = sides[~sides.duplicated(["prompt", "digest"])]
    prompt_of, _ = responses["prompt"].factorize()
    lengths = responses["characters"].to_numpy()
    _report(prompt_of, rows)

    def texts(numbers: np.ndarray) -> list[str]:
        part = responses.iloc[numbers]
        read = columns.select(part["row"])[:]
        return [_text(read[column][i]) for i, column in enumerate(part["column"])]

    (longest,) = texts(np.array([lengths.argmax()]))
    for number, embedder in enumerate(embedders, start=1):
        _report_limit(embedder, number, longest, lengths)
    weights = np.ones(len(responses))
    for block in progress_bar(_blocks(prompt_of), desc="responses"):
        block_texts = texts(block)
        with course_errors():
            arrays = [e.encode(block_texts, normalize_embeddings=True) for e in embedders]
            weights[block] = deviation_weights(*arrays, groups=prompt_of[block], floor=floor)
    weight = weights[rows[:, 0]]
    if mean_one and weight.any():
        weight = weight / weight.mean()
    print(f"mean weight of the chosen responses: {weight.mean():.3f}")
    return dataset.add_column("weight", weight)


def _text(value: Any) -> str:
    """The text of a prompt or response: as it is, or its messages' contents, a line apart."""
    return "\n".join(text for _, text in read_messages(value))


def _digest(value: Any, name: str) -> bytes:
    """Equal for texts or messages that differ in white space or Unicode form only."""
    try:
        turns = read_messages(value)
    except ValueError as error:
        raise CourseError(f"The {name} is {error}.") from None
    same = [(role, same_text(text)) for role, text in turns]
    if not any(text for _, text in same):
        raise CourseError(f"The {name} holds no text: leave that row out.")
    return blake2b(json.dumps(same).encode(), digest_size=16).digest()


def _check(dataset: Any, embedders: Sequence[Any]) -> None:
    if not embedders or any(isinstance(e, str) or not hasattr(e, "encode") for e in embedders):
        raise CourseError(
            "Give an embedder with `encode(texts, normalize_embeddings=True)`, such as "
            "SentenceTransformer('all-MiniLM-L6-v2'); floor and mean_one are given by name."
        )
    if not hasattr(dataset, "add_column") or not hasattr(dataset, "__len__"):
        raise CourseError(
            "add_weights takes one split, such as dataset['train'], as a datasets.Dataset: a "
            "weight needs all responses of a prompt, which a stream does not have."
        )
    missing = [name for name in COLUMNS if name not in dataset.column_names]
    if missing:
        raise CourseError(
            f"The dataset has no column {missing[0]!r}: rename yours, or take the prompt out of "
            "the responses' messages by dataset.map(trl.extract_prompt) (of texts that would be "
            "their longest common beginning, and so another prompt for each pair)."
        )
    if "weight" in dataset.column_names:
        raise CourseError("The dataset has a column 'weight': remove_columns('weight') first.")
    if not len(dataset):
        raise CourseError("The dataset has no row.")


def _blocks(prompt_of: np.ndarray) -> list[np.ndarray]:
    """Response numbers by prompt, cut into blocks that hold whole prompts."""
    order = np.argsort(prompt_of, kind="stable")
    starts = np.searchsorted(prompt_of[order], prompt_of[order])  # of each response's prompt
    return np.split(order, np.flatnonzero(np.diff(starts // BLOCK)) + 1)


def _report(prompt_of: np.ndarray, rows: np.ndarray) -> None:
    """Print how many responses the prompts have; warn where most have too few for a weight."""
    counts = np.bincount(prompt_of)
    print(
        f"{len(rows):,} pairs, {len(counts):,} prompts, {len(prompt_of):,} distinct responses: "
        f"{counts.min()} to {counts.max()} a prompt, median {np.median(counts):g}"
    )
    same = int((rows[:, 0] == rows[:, 1]).sum())
    if same:
        warnings.warn(f"{same} pairs have one text as chosen and rejected.", stacklevel=4)
    few = (counts < FEW).mean()
    if few > 0.5:
        warnings.warn(
            f"{few:.0%} of the prompts have fewer than {FEW} responses. Their weights are 1, and "
            "DDPO is DPO there: add responses to each prompt.",
            stacklevel=4,
        )


def _report_limit(embedder: Encoder, number: int, longest: str, lengths: np.ndarray) -> None:
    """Print how many texts the encoder cuts: beyond its limit, more text changes no row."""
    sizes = np.linspace(len(longest) / TRIED_LENGTHS, len(longest), TRIED_LENGTHS).astype(int)
    with course_errors():
        texts = [longest[:size] or "." for size in sizes]
        rows = embedder.encode(texts, normalize_embeddings=True)
        distances = np.array([diversity([row, rows[-1]]) for row in rows])
    read_more = distances > SAME_ROW
    limit = sizes[np.flatnonzero(read_more)[-1] + 1] if read_more.any() else sizes[0]
    if limit < len(longest):
        cut = int((lengths > limit).sum())
        print(
            f"encoder {number} reads about the first {limit:,} characters: it cuts {cut:,} of "
            f"{len(lengths):,} responses (its max_seq_length may be raised)"
        )
