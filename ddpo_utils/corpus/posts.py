"""Posts of r/writingPrompts: read a batch at a time, cleaned by rules that count what they remove, drawn at random.

The data set (Hub: euclaise/WritingPrompts_preferences) has one post a row. The rules follow arXiv 2503.17126, its data
section; removed posts, empty texts and comments posted twice go further, and say in the report how much they took.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..settings import WRITING_PROMPTS, CourseError, progress_bar
from .text import as_messages

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "RULES",
    "VERSION",
    "Counts",
    "Post",
    "clean",
    "draw",
    "keep_short",
    "parquet_files",
    "read_rows",
]

VERSION = 1  # of the rules: raise it with any change to them, and stored results are made anew
RULES = (  # in the order in which they apply: each comment is counted under the first that removes it
    "faulty row (no title, lists missing or unequal)",
    "post removed or deleted",
    "post without title and text",
    "comment by moderators",
    "comment removed or deleted",
    "comment empty",
    "comment without votes",
    "comment posted twice (best-voted copy stays)",
    "post without response left",
    "post not drawn",
    "response too long with its prompt",
    "post without response short enough",
)
(
    FAULTY,
    GONE_POST,
    NO_PROMPT,
    MODERATOR,
    GONE,
    EMPTY,
    NO_VOTES,
    TWICE,
    NONE_LEFT,
    NOT_DRAWN,
    LONG,
    NONE_SHORT,
) = RULES
MODERATORS = (
    "**welcome to the prompt!**",
    "this submission has been removed",
    "**off-topic discussion**",
)
REMOVED = re.compile(r"\[\s*(removed|deleted)(\s+by\s[^\]]*)?\]", re.IGNORECASE)
TAG = re.compile(r"\A\[[^\]]*\]\s*")
INVISIBLE = re.compile("(?:&#x200b;|&nbsp;|[\\s\u200b\u200c\u200d\u2060\ufeff])*", re.IGNORECASE)
COLUMNS = (
    "post_title",
    "post_text",
    "comment_texts",
    "comment_scores",
)  # comment_times and post_scores are not read
BATCH = 1000  # posts in memory at a time, and conversations tokenised at a time


@dataclass
class Post:
    """A cleaned post: place in the source, title, prompt, responses with their votes; how many were too long."""

    place: int
    title: str
    prompt: str
    responses: list[tuple[str, float]]
    long: int = 0


@dataclass
class Counts:
    """Posts and responses: those read, and those that each rule removed, as [posts, responses]."""

    read: list[int] = field(default_factory=lambda: [0, 0])
    removed: dict[str, list[int]] = field(default_factory=lambda: {rule: [0, 0] for rule in RULES})

    def remove(self, rule: str, posts: int, responses: int) -> None:
        self.removed[rule][0] += posts
        self.removed[rule][1] += responses


def batches(items: Iterable[Any], size: int = BATCH) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def parquet_files(source: str | Path) -> list[Path]:
    """The parquet files of a local source in order of path; none where `source` is the Hub's name."""
    path = Path(source)
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if not files and str(source) != WRITING_PROMPTS:
        raise CourseError(
            f"There is no parquet file at {source}: check the path, or use the Hub's {WRITING_PROMPTS}."
        )
    return files


def _check(schema: pa.Schema, name: str) -> None:
    """Raises CourseError that names the first column that is missing or of another type."""
    import pyarrow.types as t

    def text(kind: pa.DataType) -> bool:
        return t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind)

    def number(kind: pa.DataType) -> bool:
        return t.is_integer(kind) or t.is_floating(kind)

    for column in COLUMNS:
        if column not in schema.names:
            raise CourseError(
                f"{name} has no column {column!r}: r/writingPrompts has {', '.join(COLUMNS)}."
            )
        kind, item = schema.field(column).type, number if column == "comment_scores" else text
        if column.startswith("comment"):
            fits = (t.is_list(kind) or t.is_large_list(kind)) and item(kind.value_type)
        else:
            fits = text(kind) or (column == "post_text" and t.is_null(kind))
        if not fits:
            wanted = (
                "text"
                if column.startswith("post")
                else f"lists of {'text' if item is text else 'numbers'}"
            )
            raise CourseError(
                f"The column {column!r} of {name} holds {kind} in place of {wanted}: mend the file."
            )


def read_rows(
    source: str | Path, streaming: bool = False, progress: bool = True
) -> Iterator[dict[str, Any]]:
    """The source's rows in order, a batch of them in memory at a time.

    Raises:
        CourseError: the source cannot be reached or read, or a column is missing or of another type.
    """
    import pyarrow.parquet as pq

    files, total = parquet_files(source), None
    name = Path(source).name if files else str(source)
    try:
        if files:
            opened = [pq.ParquetFile(path) for path in files]
            for path, parquet in zip(files, opened, strict=True):
                _check(parquet.schema_arrow, path.name)
            total = sum(parquet.metadata.num_rows for parquet in opened)
            tables = (
                batch
                for parquet in opened
                for batch in parquet.iter_batches(BATCH, columns=list(COLUMNS))
            )
        else:
            from datasets import load_dataset

            data = load_dataset(source, split="train", streaming=streaming).with_format("arrow")
            total = None if streaming else len(data)
            tables = data.iter(BATCH)
        with progress_bar(shown=progress, desc="posts", unit=" posts", total=total) as bar:
            for number, table in enumerate(tables):
                if not files and not number:
                    _check(table.schema, name)
                rows = table.select(COLUMNS).to_pylist()
                yield from rows
                bar.update(len(rows))
    except CourseError:
        raise
    except Exception as error:  # each library has its own
        way = (
            "check the file"
            if files
            else "connect to a network, or set `data` to a parquet file or folder"
        )
        raise CourseError(f"{name} cannot be read ({type(error).__name__}): {way}.") from None


def _plain(text: str | None) -> str:
    """Unix line ends and no space at either end; empty where nothing would be seen."""
    text = (text or "").replace("\r\n", "\n").replace("\r", "\n").strip()
    return "" if INVISIBLE.fullmatch(text) else text


def _responses(
    texts: list[str | None], scores: list[float | None], counts: Counts
) -> list[tuple[str, float]]:
    """One post's comments that are responses, in their order, with their votes."""
    kept: dict[str, float] = {}
    for text, score in zip(map(_plain, texts), scores, strict=True):
        lower = text.lower()
        if any(mark in lower for mark in MODERATORS):
            counts.remove(MODERATOR, 0, 1)
        elif REMOVED.fullmatch(text):
            counts.remove(GONE, 0, 1)
        elif not text:
            counts.remove(EMPTY, 0, 1)
        elif score is None or not math.isfinite(score):
            counts.remove(NO_VOTES, 0, 1)
        else:
            if (
                text in kept
            ):  # two copies would lie at distance 0 from each other, and could even become a pair
                counts.remove(TWICE, 0, 1)
            kept[text] = max(float(score), kept.get(text, -math.inf))
    return list(kept.items())


def clean(rows: Iterable[dict[str, Any]], counts: Counts) -> Iterator[Post]:
    """Posts with at least one response, by every rule that needs no tokenizer; what they remove goes into `counts`.

    A prompt is the title without its leading [tag], a line end, and the post's text where it has one.
    """
    for place, row in enumerate(rows):
        texts, scores = row["comment_texts"], row["comment_scores"]
        size = len(texts or [])
        counts.read[0] += 1
        counts.read[1] += size
        tagged, body = _plain(row["post_title"]), _plain(row["post_text"])
        title = TAG.sub("", tagged)
        if (
            row["post_title"] is None
            or texts is None
            or scores is None
            or len(texts) != len(scores)
        ):
            counts.remove(FAULTY, 1, size)
        elif any(REMOVED.fullmatch(part) for part in (tagged, title, body)):
            counts.remove(GONE_POST, 1, size)
        elif not title and not body:
            counts.remove(NO_PROMPT, 1, size)
        elif responses := _responses(texts, scores, counts):
            yield Post(place, title, f"{title}\n{body}".strip(), responses)
        else:
            counts.remove(NONE_LEFT, 1, 0)


def keep_short(posts: list[Post], tokenizer: Any, max_length: int) -> None:
    """Takes from the posts the responses that exceed `max_length` tokens with prompt and chat template.

    Counted exactly: the conversation as the template writes it, BOS and all, is tokenised as it stands.
    """
    flat = [(post, *response) for post in posts for response in post.responses]
    for post in posts:
        post.responses = []
    for part in batches(flat):
        talks = [
            as_messages("user", post.prompt) + as_messages("assistant", text)
            for post, text, _ in part
        ]
        written = tokenizer.apply_chat_template(talks, tokenize=False)
        # no special tokens: the template has written them, and a tokenizer would write BOS once more
        ids = tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
        for (post, text, votes), row in zip(part, ids, strict=True):
            if len(row) <= max_length:
                post.responses.append((text, votes))
            else:
                post.long += 1


def draw(
    posts: Iterable[Post],
    shorten: Callable[[list[Post]], None],
    number: int,
    seed: int,
    counts: Counts,
) -> list[Post]:
    """`number` posts with a response short enough, drawn at random in one pass, in the source's order.

    Every row of the source has its random number, whatever becomes of it, and the smallest win: so the draw does not
    depend on batches, and a smaller draw is part of a larger one. Only posts still in the running are tokenised.
    """
    rng, read, usable, bound = np.random.default_rng(seed), 0, 0, math.inf
    held: list[tuple[float, int, Post]] = []  # a heap with the largest random number on top

    def refuse(post: Post) -> None:
        counts.remove(NOT_DRAWN, 1, len(post.responses) + post.long)

    for batch in batches(posts):
        running = []
        for post in batch:
            ticket = float(rng.random(post.place + 1 - read)[-1])
            read = post.place + 1
            if ticket < bound:
                running.append((ticket, post))
            else:
                refuse(post)
        shorten([post for _, post in running])
        for ticket, post in running:
            heapq.heappush(held, (-ticket, post.place, post))
            usable += bool(post.responses)
            while usable > number or (usable == number and not held[0][2].responses):
                gone = heapq.heappop(held)[2]
                usable -= bool(gone.responses)
                refuse(gone)
        bound = -held[0][0] if usable == number else math.inf
    return sorted((post for _, _, post in held), key=lambda post: post.place)
