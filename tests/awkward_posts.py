"""Parquet files in the schema of r/writingPrompts, written here: a small plain one, and one with every awkward case.

All sentences are this project's own; nothing comes from the real data set.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

WHO = ["a retired cartographer", "the last lamplighter", "a ferry pilot", "the village dentist", "an apprentice baker",
       "a tax inspector", "the night nurse", "a piano tuner", "two rival florists", "the museum guard"]  # fmt: skip
FINDS = ["a door in the tide wall", "a letter dated tomorrow", "a map of a street that moved", "somebody else's dream",
         "a clock that counts apologies", "the town's missing hour", "a whale in the reservoir",
         "an unpaid bill from the moon"]  # fmt: skip
BUT = ["nobody else remembers it.", "it wants something back.", "the rain knows first.", "only dogs will touch it.",
       "it grows each time it is told.", "the mayor has one too."]  # fmt: skip
OPENINGS = ["It began with a smell of burnt sugar.", "Nobody had knocked since the flood.", '"You are late," it said.',
            "Dear sister, do not come.", "The ledger said forty; I counted forty-one.", "We drew lots, and I lost.",
            "Monday. Fog. The goat is gone again.", "My grandmother kept thunder in a jar."]  # fmt: skip
MIDDLES = ["I turned the key the wrong way, on purpose, and the street folded like a napkin.",
           "They argued about bread until the stars came out to listen.",
           "Somewhere below us the machines had begun to hum a lullaby.",
           "She measured the silence with a ruler and wrote the figure on her wrist.",
           "The inspector wanted a signature; the river wanted my shoes.",
           "He laughed, then he stopped, and the second thing was worse.",
           "Every window in the row showed a different winter.",
           "I fed it coins, buttons, and at last my name.",
           "The children voted, and the vote was for the wolf.",
           "By noon the bells had learned to whisper."]  # fmt: skip
ENDINGS = ["In the morning there was only salt.", "I still set a place for it.", "So we sold the house.",
           "That is all I may say.", "And the clock, politely, apologised.", "Then the tide came in, reading aloud.",
           "You would have done the same.", "He never did learn to whistle."]  # fmt: skip


def post(title: Any, text: Any, comments: Any, scores: Any, times: Any = None) -> dict[str, Any]:
    """One row of the data set; `comments` and `scores` may be whatever a fault needs."""
    if times is None and comments is not None:
        times = [f"2019-05-{1 + i % 28:02d}" for i in range(len(comments))]
    return {"post_title": title, "post_text": text, "post_scores": 10, "comment_texts": comments,
            "comment_scores": scores, "comment_times": times}  # fmt: skip


def write_posts(path: Path, rows: list[dict[str, Any]], row_group_size: int | None = None) -> Path:
    """The rows as a parquet file with the column types of the data set."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("post_title", pa.string()), ("post_text", pa.string()), ("post_scores", pa.int64()),
         ("comment_texts", pa.list_(pa.string())), ("comment_scores", pa.list_(pa.int64())),
         ("comment_times", pa.list_(pa.string()))]
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=row_group_size)
    return path


def story(rng: np.random.Generator, sentences: int = 4) -> str:
    """An invented little story of about ten words a sentence."""
    middles = [MIDDLES[i] for i in rng.integers(len(MIDDLES), size=max(sentences - 2, 0))]
    return " ".join([rng.choice(OPENINGS), *middles, rng.choice(ENDINGS)])


def small_posts(path: Path, posts: int = 12, responses: int = 6, seed: int = 0) -> Path:
    """A parquet of `posts` different prompts with `responses` different stories each, votes from -2 to 60; no fault."""
    rng = np.random.default_rng(seed)
    plots = list(itertools.product(WHO, FINDS, BUT))
    rows = []
    for number, plot in enumerate(rng.permutation(len(plots))[np.arange(posts) % len(plots)]):
        who, finds, but = plots[plot]
        stories: list[str] = []
        while len(stories) < responses:
            text = story(rng, int(rng.integers(4, 8)))
            if text not in stories:
                stories.append(text)
        votes = [int(v) for v in rng.permutation(np.linspace(-2, 60, max(responses, 2)).astype(int))[:responses]]
        again = "" if number < len(plots) else f" ({number // len(plots) + 1})"
        title = f"[WP] {who[0].upper()}{who[1:]} finds {finds}, but {but}{again}"
        rows.append(post(title, "" if number % 3 else "Any genre, please.", stories, votes))
    return write_posts(Path(path), rows)
