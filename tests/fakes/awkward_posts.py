"""Parquet files in the schema of r/writingPrompts, written here: a small plain one, and one with every awkward case.

All sentences are this project's own; nothing comes from the real data set.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

WHO = [
    "a retired cartographer",
    "the last lamplighter",
    "a ferry pilot",
    "the village dentist",
    "an apprentice baker",
    "a tax inspector",
    "the night nurse",
    "a piano tuner",
    "two rival florists",
    "the museum guard",
]
FINDS = [
    "a door in the tide wall",
    "a letter dated tomorrow",
    "a map of a street that moved",
    "somebody else's dream",
    "a clock that counts apologies",
    "the town's missing hour",
    "a whale in the reservoir",
    "an unpaid bill from the moon",
]
BUT = [
    "nobody else remembers it.",
    "it wants something back.",
    "the rain knows first.",
    "only dogs will touch it.",
    "it grows each time it is told.",
    "the mayor has one too.",
]
OPENINGS = [
    "It began with a smell of burnt sugar.",
    "Nobody had knocked since the flood.",
    '"You are late," it said.',
    "Dear sister, do not come.",
    "The ledger said forty; I counted forty-one.",
    "We drew lots, and I lost.",
    "Monday. Fog. The goat is gone again.",
    "My grandmother kept thunder in a jar.",
]
MIDDLES = [
    "I turned the key the wrong way, on purpose, and the street folded like a napkin.",
    "They argued about bread until the stars came out to listen.",
    "Somewhere below us the machines had begun to hum a lullaby.",
    "She measured the silence with a ruler and wrote the figure on her wrist.",
    "The inspector wanted a signature; the river wanted my shoes.",
    "He laughed, then he stopped, and the second thing was worse.",
    "Every window in the row showed a different winter.",
    "I fed it coins, buttons, and at last my name.",
    "The children voted, and the vote was for the wolf.",
    "By noon the bells had learned to whisper.",
]
ENDINGS = [
    "In the morning there was only salt.",
    "I still set a place for it.",
    "So we sold the house.",
    "That is all I may say.",
    "And the clock, politely, apologised.",
    "Then the tide came in, reading aloud.",
    "You would have done the same.",
    "He never did learn to whistle.",
]


def post(title: Any, text: Any, comments: Any, scores: Any, times: Any = None) -> dict[str, Any]:
    """One row of the data set; `comments` and `scores` may be whatever a fault needs."""
    if times is None and comments is not None:
        times = [f"2019-05-{1 + i % 28:02d}" for i in range(len(comments))]
    return {
        "post_title": title,
        "post_text": text,
        "post_scores": 10,
        "comment_texts": comments,
        "comment_scores": scores,
        "comment_times": times,
    }


def write_posts(path: Path, rows: list[dict[str, Any]], row_group_size: int | None = None) -> Path:
    """The rows as a parquet file with the column types of the data set."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("post_title", pa.string()),
            ("post_text", pa.string()),
            ("post_scores", pa.int64()),
            ("comment_texts", pa.list_(pa.string())),
            ("comment_scores", pa.list_(pa.int64())),
            ("comment_times", pa.list_(pa.string())),
        ]
    )
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
        votes = [
            int(v)
            for v in rng.permutation(np.linspace(-2, 60, max(responses, 2)).astype(int))[:responses]
        ]
        again = "" if number < len(plots) else f" ({number // len(plots) + 1})"
        title = f"[WP] {who[0].upper()}{who[1:]} finds {finds}, but {but}{again}"
        rows.append(post(title, "" if number % 3 else "Any genre, please.", stories, votes))
    return write_posts(Path(path), rows)


LONG_WORDS = 3200  # of a story that no tokenizer writes in fewer than 3,000 tokens


def awkward_rows(seed: int = 0) -> list[dict[str, Any]]:
    """Posts with every case that cleaning, splitting and pairing must get right."""
    rng = np.random.default_rng(seed)

    def tell(n: int) -> list[str]:
        return [f"{story(rng)} ({i})" for i in range(n)]

    def votes(n: int) -> list[int]:
        return [int(v) for v in rng.integers(-5, 90, size=n)]

    def plain(title: str, text: Any = "", n: int = 4) -> dict[str, Any]:
        return post(title, text, tell(n), votes(n))

    long_story = " ".join(
        rng.choice(["tide", "salt", "bell", "key", "fog", "lamp", "moss"], size=LONG_WORDS)
    )
    twice = tell(3)
    two_lines = "The bell rang.\nNobody came."
    windows = [f"{a}\r\n\r\n{b}" for a, b in zip(tell(3), tell(3), strict=True)] + [
        "An old\rMac wrote this."
    ]
    rows = [
        # titles and texts
        plain("[WP] The lamp answers back."),
        plain("[EU][WP] Two tags stand before this one."),
        plain("No tag at all, and an [unnamed] island in the middle"),
        plain("[WP is never closed, so it stays"),
        plain("[WP]", "The title was only a tag; the prompt is down here."),
        plain("[WP] Null where the text should be", None),
        plain("  [CW]   Spaces on every side  ", "\n\n Write it backwards. \n"),
        plain("[WP] Title on\r\ntwo lines", "and text\r\n\r\nfrom Windows"),
        post("[WP] Stories from Windows", "", windows, [5, 10, 15, 20]),
        # posts that go
        plain("[WP]", ""),
        plain("[TT]", "&#x200B;"),
        plain("", " \n"),
        plain("\u200b", None),
        plain("[WP] The text has been taken away", "[removed]"),
        plain("[WP] Its writer has left", " [deleted]\n"),
        plain("[deleted by user]", "A text without its title"),
        plain("[WP] [ Removed by Reddit ]"),
        post("[WP] Nobody answered", "", [], []),
        post("[WP] Everything was removed", "", ["[removed]", "[deleted]", ""], [1, 2, 3]),
        post("[WP] One answer, and it never ends", "", [long_story], [50]),
        # faulty rows
        post("[WP] More texts than votes", "", tell(4), votes(3)),
        post("[WP] More votes than texts", "", tell(2), votes(5)),
        post("[WP] Votes for nothing", "", [], votes(2)),
        post("[WP] No texts", "", None, votes(2)),
        post("[WP] No votes", "", tell(2), None),
        post(None, "A text, and null for a title", tell(3), votes(3)),
        post(
            "[WP] Only the times are short, and nobody reads them",
            "",
            tell(3),
            votes(3),
            times=["2019-05-01"],
        ),
        # comments that go
        post(
            "[WP] Moderators came by",
            "",
            [
                "**Welcome to the Prompt!** Stories go below.",
                *tell(2),
                "Hello! This submission has been removed.",
                "Rules first.\n\n**OFF-TOPIC DISCUSSION**: chat under this comment.",
                *tell(1),
            ],
            votes(6),
        ),
        post(
            "[WP] Comments were removed",
            "",
            [
                "[deleted]",
                *tell(2),
                " [removed]\r\n",
                "[Deleted by user]",
                "[ Removed by Reddit ]",
                'The label said "[removed]", and so we never learned his name.',
            ],
            votes(7),
        ),
        post(
            "[WP] Nothing to see",
            "",
            ["", *tell(1), " \t\r\n ", None, "&#x200B;", "\u200b\u2060", *tell(1)],
            votes(7),
        ),
        post("[WP] Votes got lost", "", tell(4), [3, None, 8, None]),
        post(
            "[WP] Somebody pressed the button twice",
            "",
            [
                twice[0],
                twice[1],
                twice[0],
                two_lines,
                twice[2],
                f"  {twice[0]}\n",
                two_lines.replace("\n", "\r\n"),
            ],
            [4, -2, 30, 7, 0, 12, 7],
        ),
        post("[WP] One of four is too long", "", [*tell(2), long_story, *tell(1)], [9, 4, 100, 2]),
        # votes
        post("[WP] All tied", "", tell(6), [3] * 6),
        post("[WP] All below zero", "", tell(5), [-1, -30, -3, -7, -2]),
        post("[WP] A lonely answer", "", tell(1), [12]),
        post("[WP] A thousand answers", "", tell(1000), votes(1000)),
        # scripts
        post(
            "[WP] 月の上の古い図書館 🌕📚",
            "Любой жанр, пожалуйста.",
            [
                "👩‍🚀 writes: «Дверь закрыта».",
                "那扇门只在下雨时打开。",
                "كان البحر يقرأ بصوت عالٍ.",
                "🙂🙃🙂",
                "Ěščřž — naïve façade, 𝔣𝔯𝔞𝔨𝔱𝔲𝔯, e\u0301 and é.",
            ],
            [1, 8, -4, 20, 3],
        ),
        # reposts: the same prompt, the same title, and two that only a third joins
        plain("[WP] A door opens in the tide wall."),
        plain("[SP]  a DOOR opens, in the tide-wall"),
        post(
            "[WP] A door opens in the tide wall.",
            "This time with a cat.",
            [twice[0], *tell(2)],
            [2, 90, 5],
        ),
        plain("[WP] The cartographer", "draws a street that moves at night"),
        plain("[WP] The cartographer", "Any ending but a sad one."),
        plain("The cartographer draws a street that moves at night!"),
    ]
    fillers = [
        plain(f"[WP] Filler: {WHO[i % 10]}, {FINDS[i % 8]} and {BUT[i % 6]}", n=1 + i % 5)
        for i in range(40)
    ]
    rows += fillers
    return [rows[i] for i in rng.permutation(len(rows))]


def awkward_posts(path: Path, seed: int = 0) -> Path:
    """The parquet of `awkward_rows`, in row groups of 7."""
    return write_posts(Path(path), awkward_rows(seed), row_group_size=7)
