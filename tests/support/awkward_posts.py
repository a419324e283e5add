"""Parquet files in the schema of r/writingPrompts: a plain one, and one with every awkward case.

All sentences are this project's own; nothing comes from the real data set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ddpo_utils.small_world.grammar import World, all_prompts

NUMBERS, TEXTS = pa.list_(pa.int64()), pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "post_title": pa.string(),
        "post_text": pa.string(),
        "post_scores": pa.int64(),
        "comment_texts": TEXTS,
        "comment_scores": NUMBERS,
        "comment_times": TEXTS,
    }
)


def post(title: Any, text: Any, comments: Any, scores: Any) -> dict[str, Any]:
    """One row of the data set; `comments` and `scores` may be whatever a fault needs.

    post_scores and comment_times are not read, so every row has the same.
    """
    return dict(zip(SCHEMA.names, (title, text, 10, comments, scores, ["2019-05-01"]), strict=True))


def write_posts(path: Path, rows: list[dict[str, Any]], row_group_size: int | None = None) -> Path:
    """The rows as a parquet file with the column types of the data set."""
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=row_group_size)
    return path


def small_posts(path: Path, posts: int = 12, responses: int = 6, seed: int = 0) -> Path:
    """A parquet of different prompts with different stories each, votes -2 to 60."""
    rng = np.random.default_rng(seed)
    world, prompts = World(seed), all_prompts(seed)[:posts]
    rows = []
    for number, prompt in enumerate(prompts):
        stories = world.stories([prompt], 4 * responses, draw=number)["text"].unique()[:responses]
        votes = rng.permutation(np.linspace(-2, 60, max(responses, 2)).astype(int))[:responses]
        text = "" if number % 3 else "Any genre, please."
        rows.append(post(f"[WP] {prompt}", text, stories.tolist(), votes.tolist()))
    assert {len(row["comment_texts"]) for row in rows} == {responses}
    return write_posts(Path(path), rows)


# Posts with the comments "one" and "two": (title, text, prompt, or the place of a rule in RULES).
POSTS = [
    ("[WP] The lamp answers back.", "", "The lamp answers back."),
    ("[EU][WP] Two tags", "", "[WP] Two tags"),
    ("No tag, and an [unnamed] island", "", "No tag, and an [unnamed] island"),
    ("[WP is never closed", "", "[WP is never closed"),
    ("[WP]", "The title was only a tag.", "The title was only a tag."),
    ("[WP] Null for a text", None, "Null for a text"),
    ("  [CW]   Spaces  ", "\n\n Write it backwards. \n", "Spaces\nWrite it backwards."),
    ("[WP] Title on\r\ntwo lines", "and\r\n\r\ntext", "Title on\ntwo lines\nand\n\ntext"),
    ("[WP] 月の上の古い図書館 🌕📚", "Любой жанр.", "月の上の古い図書館 🌕📚\nЛюбой жанр."),
    (None, "A text, and null for a title", 0),
    ("[WP] The text has been taken away", "[removed]", 1),
    ("[WP] Its writer has left", " [deleted]\n", 1),
    ("[deleted by user]", "A text without its title", 1),
    ("[WP] [ Removed by Reddit ]", "", 1),
    ("[WP]", "", 2),
    ("[TT]", "&#x200B;", 2),
    ("", " \n", 2),
    ("\u200b", None, 2),
    # reposts: the same title, and one whose prompt is the second's, so that it joins the first
    ("[WP] A door opens in the tide wall.", "", "A door opens in the tide wall."),
    ("[SP]  a DOOR opens, in the tide-wall", "", "a DOOR opens, in the tide-wall"),
    ("[WP] The cartographer", "draws a street", "The cartographer\ndraws a street"),
    ("[WP] The cartographer", "Any ending.", "The cartographer\nAny ending."),
    ("The cartographer draws a street!", "", "The cartographer draws a street!"),
]
LONG = "tide salt bell key fog lamp moss " * 450
QUOTE = 'The label said "[removed]", and so we never learned his name.'
SCRIPTS = [
    "«Дверь закрыта».",
    "那扇门。",
    "كان البحر يقرأ.",
    "🙂🙃",
    "naïve 𝔣𝔯𝔞𝔨𝔱𝔲𝔯, e\u0301 and é",
]
# (comments, votes, votes of the texts that are left, [posts, responses] that a rule removes).
COMMENTS = [
    (["a", "b"], [1, 2, 3], {}, {0: [1, 2]}),
    (["a", "b", "c"], [1, 2], {}, {0: [1, 3]}),
    (None, [1, 2], {}, {0: [1, 0]}),
    (["a", "b"], None, {}, {0: [1, 2]}),
    ([], [], {}, {8: [1, 0]}),
    (["[removed]", "[Deleted by user]", ""], [1, 2, 3], {}, {4: [0, 2], 5: [0, 1], 8: [1, 0]}),
    (["**Welcome to the Prompt!** Stories below.", "one"], [1, 2], {"one": 2}, {3: [0, 1]}),
    (["Hello! This submission has been removed.", "one"], [1, 2], {"one": 2}, {3: [0, 1]}),
    (["Rules.\n\n**OFF-TOPIC DISCUSSION**: here."], [1], {}, {3: [0, 1], 8: [1, 0]}),
    ([" [removed]\r\n", "[ Removed by Reddit ]", QUOTE], [1, 2, 3], {QUOTE: 3}, {4: [0, 2]}),
    (["", " \t\r\n ", None, "\u200b\u2060", "one"], [1, 2, 3, 4, 5], {"one": 5}, {5: [0, 4]}),
    (["a", "b", "c"], [3, None, 8], {"a": 3, "c": 8}, {6: [0, 1]}),
    (
        ["a", "b", "  a\n", "b\r\nc", "b\nc"],
        [4, -2, 30, 7, 9],
        {"a": 30, "b": -2, "b\nc": 9},
        {7: [0, 2]},
    ),
    (["A\r\n\r\nB", "An old\rMac"], [1, 2], {"A\n\nB": 1, "An old\nMac": 2}, {}),
    (SCRIPTS, [-1, -30, 3, 3, 0], dict(zip(SCRIPTS, (-1, -30, 3, 3, 0), strict=True)), {}),
    ([LONG], [7], {}, {10: [0, 1], 11: [1, 0]}),
    (["a", LONG, "b"], [1, 2, 3], {"a": 1, "b": 3}, {10: [0, 1]}),
]


def awkward_posts(path: Path) -> tuple[Path, list[list[Any]], np.ndarray]:
    """A parquet of the cases that cleaning must get right, with what is right.

    That is, [prompt_id, prompt, text, score] of each response that is left, and (12, 2) posts and
    responses that each rule removes. Twenty plain posts stand at the end.
    """
    rows, left, removed = [], [], np.zeros((12, 2), dtype=int)

    def add(title: Any, text: Any, comments: Any, scores: Any, prompt: str, kept: Any) -> None:
        left.extend([f"wp{len(rows):06d}", prompt, story, vote] for story, vote in kept.items())
        rows.append(post(title, text, comments, scores))

    for title, text, prompt in POSTS:
        kept = {"one": 3, "two": -1}
        if isinstance(prompt, int):
            removed[prompt] += (1, 2)
            kept = {}
        add(title, text, ["one", "two"], [3, -1], prompt, kept)
    for number, (comments, scores, kept, rules) in enumerate(COMMENTS):
        add(f"[WP] Post {number}", "", comments, scores, f"Post {number}", kept)
        for rule, pair in rules.items():
            removed[rule] += pair
    for number in range(20):
        kept = {f"Story {i} of {number}": i for i in range(1 + number % 5)}
        add(f"Filler {number}", "", [*kept], [*kept.values()], f"Filler {number}", kept)
    return write_posts(Path(path), rows, row_group_size=7), left, removed
