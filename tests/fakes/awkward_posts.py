"""Parquet files in the schema of r/writingPrompts: a plain one, and one with every awkward case.

All sentences are this project's own; nothing comes from the real data set.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WHO = """a retired cartographer
the last lamplighter
a ferry pilot
the village dentist
an apprentice baker
a tax inspector
the night nurse
a piano tuner
two rival florists
the museum guard""".splitlines()
FINDS = """a door in the tide wall
a letter dated tomorrow
a map of a street that moved
somebody else's dream
a clock that counts apologies
the town's missing hour
a whale in the reservoir
an unpaid bill from the moon""".splitlines()
BUT = """nobody else remembers it.
it wants something back.
the rain knows first.
only dogs will touch it.
it grows each time it is told.
the mayor has one too.""".splitlines()
OPENINGS = """It began with a smell of burnt sugar.
Nobody had knocked since the flood.
"You are late," it said.
Dear sister, do not come.
The ledger said forty; I counted forty-one.
We drew lots, and I lost.
Monday. Fog. The goat is gone again.
My grandmother kept thunder in a jar.""".splitlines()
MIDDLES = """I turned the key the wrong way, on purpose, and the street folded like a napkin.
They argued about bread until the stars came out to listen.
Somewhere below us the machines had begun to hum a lullaby.
She measured the silence with a ruler and wrote the figure on her wrist.
The inspector wanted a signature; the river wanted my shoes.
He laughed, then he stopped, and the second thing was worse.
Every window in the row showed a different winter.
I fed it coins, buttons, and at last my name.
The children voted, and the vote was for the wolf.
By noon the bells had learned to whisper.""".splitlines()
ENDINGS = """In the morning there was only salt.
I still set a place for it.
So we sold the house.
That is all I may say.
And the clock, politely, apologised.
Then the tide came in, reading aloud.
You would have done the same.
He never did learn to whistle.""".splitlines()

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


def story(rng: np.random.Generator, sentences: int = 4) -> str:
    """An invented little story of about ten words a sentence."""
    middles = [MIDDLES[i] for i in rng.integers(len(MIDDLES), size=max(sentences - 2, 0))]
    return " ".join([rng.choice(OPENINGS), *middles, rng.choice(ENDINGS)])


def small_posts(path: Path, posts: int = 12, responses: int = 6, seed: int = 0) -> Path:
    """A parquet of different prompts with different stories each, votes from -2 to 60."""
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
        votes = rng.permutation(np.linspace(-2, 60, max(responses, 2)).astype(int))[:responses]
        again = "" if number < len(plots) else f" ({number // len(plots) + 1})"
        title = f"[WP] {who[0].upper()}{who[1:]} finds {finds}, but {but}{again}"
        text = "" if number % 3 else "Any genre, please."
        rows.append(post(title, text, stories, votes.tolist()))
    return write_posts(Path(path), rows)


PLAIN = [  # (title, text) of posts with four comments
    ("[WP] The lamp answers back.", ""),
    ("[EU][WP] Two tags stand before this one.", ""),
    ("No tag at all, and an [unnamed] island in the middle", ""),
    ("[WP is never closed, so it stays", ""),
    ("[WP]", "The title was only a tag; the prompt is down here."),
    ("[WP] Null where the text should be", None),
    ("  [CW]   Spaces on every side  ", "\n\n Write it backwards. \n"),
    ("[WP] Title on\r\ntwo lines", "and text\r\n\r\nfrom Windows"),
    # removed, or without a prompt
    ("[WP]", ""),
    ("[TT]", "&#x200B;"),
    ("", " \n"),
    ("\u200b", None),
    ("[WP] The text has been taken away", "[removed]"),
    ("[WP] Its writer has left", " [deleted]\n"),
    ("[deleted by user]", "A text without its title"),
    ("[WP] [ Removed by Reddit ]", ""),
    (None, "A text, and null for a title"),
    # reposts: the same prompt, the same title, and two that only a third joins
    ("[WP] A door opens in the tide wall.", ""),
    ("[SP]  a DOOR opens, in the tide-wall", ""),
    ("[WP] A door opens in the tide wall.", "This time with a cat."),
    ("[WP] The cartographer", "draws a street that moves at night"),
    ("[WP] The cartographer", "Any ending but a sad one."),
    ("The cartographer draws a street that moves at night!", ""),
]
MODERATORS = [
    "**Welcome to the Prompt!** Stories go below.",
    "Hello! This submission has been removed.",
    "Rules first.\n\n**OFF-TOPIC DISCUSSION**: chat under this comment.",
]
GONE = ["[deleted]", " [removed]\r\n", "[Deleted by user]", "[ Removed by Reddit ]"]
EMPTY = ["", " \t\r\n ", None, "&#x200B;", "\u200b\u2060"]
SCRIPTS = [
    "👩‍🚀 writes: «Дверь закрыта».",
    "那扇门只在下雨时打开。",
    "كان البحر يقرأ بصوت عالٍ.",
    "🙂🙃🙂",
    "Ěščřž — naïve façade, 𝔣𝔯𝔞𝔨𝔱𝔲𝔯, e\u0301 and é.",
]


def awkward_posts(path: Path, seed: int = 0) -> Path:
    """A parquet with every case that cleaning, splitting and pairing must get right."""
    rng = np.random.default_rng(seed)

    def stories(n: int) -> list[str]:
        return [f"{story(rng)} ({i})" for i in range(n)]

    def add(title: Any, comments: Any, scores: Any = None, text: Any = "") -> None:
        if scores is None and comments is not None:
            scores = rng.integers(-5, 90, size=len(comments)).tolist()
        rows.append(post(title, text, comments, scores))

    rows: list[dict[str, Any]] = []
    for title, text in PLAIN:
        add(title, stories(4), text=text)
    for i in range(40):
        add(f"[WP] Filler: {WHO[i % 10]}, {FINDS[i % 8]} and {BUT[i % 6]}", stories(1 + i % 5))
    long = " ".join(rng.choice(["tide", "salt", "bell", "key", "fog", "lamp", "moss"], size=3200))
    add("[WP] One answer, and it never ends", [long])
    add("[WP] One of four is too long", [*stories(2), long, *stories(1)])
    add("[WP] More texts than votes", stories(4), [1, 2, 3])
    add("[WP] More votes than texts", stories(2), [1, 2, 3, 4, 5])
    add("[WP] Votes for nothing", [], [1, 2])
    add("[WP] No texts", None, [1, 2])
    rows.append(post("[WP] No votes", "", stories(2), None))
    add("[WP] Nobody answered", [])
    add("[WP] Everything was removed", ["[removed]", "[deleted]", ""])
    add("[WP] Moderators came by", [*MODERATORS, *stories(3)])
    quote = 'The label said "[removed]", and so we never learned his name.'
    add("[WP] Comments were removed", [*GONE, *stories(2), quote])
    add("[WP] Nothing to see", [*EMPTY, *stories(2)])
    add("[WP] Votes got lost", stories(4), [3, None, 8, None])
    a, b, c = stories(3)
    lines = "The bell rang.\nNobody came."
    twice = [a, b, a, lines, c, f"  {a}\n", lines.replace("\n", "\r\n")]
    add("[WP] Somebody pressed the button twice", twice, [4, -2, 30, 7, 0, 12, 7])
    add("[WP] Its answer was posted elsewhere too", [a, *stories(2)])
    add("[WP] Old machines", ["A\r\n\r\nB", "An old\rMac wrote this."])
    add("[WP] All tied", stories(6), [3] * 6)
    add("[WP] All below zero", stories(5), [-1, -30, -3, -7, -2])
    add("[WP] A thousand answers", stories(1000))
    add("[WP] 月の上の古い図書館 🌕📚", SCRIPTS, text="Любой жанр, пожалуйста.")
    return write_posts(Path(path), [rows[i] for i in rng.permutation(len(rows))], row_group_size=7)
