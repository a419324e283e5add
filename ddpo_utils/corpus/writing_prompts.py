"""r/writingPrompts as a corpus: cleaned, drawn, cut to length, split by prompt, and stored once.

Cleaning and split follow arXiv 2503.17126, its data section; the rules for removed posts, empty
comments and comments posted twice are added here.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..settings import WRITING_PROMPTS, CourseError, Profile, progress_bar
from ..storage.files import read_json, replacing, short_digest, write_json
from .stories import is_writing_prompts, load_stories
from .text import as_messages

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RULES", "load_writing_prompts", "print_report", "split_posts", "stories_of"]

VERSION = 2  # of rules and draw: raise it with any change to them, and stored results are made anew
TWICE = "comment posted twice (best-voted copy stays)"
RULES = (  # in the order in which they apply: a comment is counted under the first that removes it
    "faulty row (no title, lists missing or unequal)",
    "post removed or deleted",
    "post without title and text",
    "comment by moderators",
    "comment removed or deleted",
    "comment empty",
    "comment without votes",
    TWICE,
    "post without response left",
    "post not drawn",
    "response too long with its prompt",
    "post without response short enough",
)
MODERATORS = re.compile(
    r"\*\*welcome to the prompt!\*\*|this submission has been removed|\*\*off-topic discussion\*\*",
    re.IGNORECASE,
)
REMOVED = re.compile(r"\[\s*(removed|deleted)(\s+by\s[^\]]*)?\]", re.IGNORECASE)
TAG = re.compile(r"\A\[[^\]]*\]\s*")
INVISIBLE = re.compile("(?:&#x200b;|&nbsp;|[\\s\u200b\u200c\u200d\u2060\ufeff])*", re.IGNORECASE)
COLUMNS = ("post_title", "post_text", "comment_texts", "comment_scores")
BATCH = 1000  # posts read at a time, and conversations tokenised at a time
PAPER = {"left": 467_198, "train": 421_330, "test": 45_868}  # its responses, whole data set
PROBE = "Once, in the tide-wall: 42 doors... “Élodie?” 🙂 Старый дом, 老房子.\n\n\tHe'd know."

Counts = dict[str, np.ndarray]  # [posts, responses] that were read, and that each rule removed


def _parquet_files(source: str | Path) -> list[Path]:
    """The parquet files of a local source in order of path; none where `source` is the Hub's."""
    files = sorted(Path(source).rglob("*.parquet")) or [Path(source)]
    if str(source) != WRITING_PROMPTS and not files[0].is_file():
        raise CourseError(f"There is no parquet file at {source}: check the path.")
    return [file for file in files if file.is_file()]


def _read_batches(source: str | Path) -> Iterator[list[dict[str, Any]]]:
    """The source's rows in order, in lists of at most 1,000; one list is in memory at a time."""
    from pyarrow.parquet import ParquetFile

    name, columns = str(source), list(COLUMNS)
    files = _parquet_files(source)
    try:
        if files:  # not by `datasets`, which fills in columns that one of the files lacks
            parts = [ParquetFile(path) for path in files]
            found = [part.schema_arrow.names for part in parts]
            tables = chain(*(part.iter_batches(BATCH, columns=columns) for part in parts))
        else:
            from datasets import load_dataset

            data = load_dataset(name, split="train").with_format("arrow")
            found = [data.column_names]
            tables = data.iter(BATCH)
        for names in found:
            if not set(COLUMNS) <= set(names):
                raise CourseError(f"{name} lacks one of the columns {', '.join(COLUMNS)}.")
        for table in progress_bar(tables, desc="posts", unit=" posts", unit_scale=BATCH):
            yield table.select(columns).to_pylist()
    except CourseError:
        raise
    except Exception as error:  # each library has its own
        advice = "check the file" if files else "connect to a network, or give a parquet file"
        raise CourseError(f"{name} cannot be read ({type(error).__name__}): {advice}.") from None


def _plain(text: str | None) -> str:
    """The text with Unix line ends and no space at its ends; empty where nothing is visible."""
    text = (text or "").replace("\r\n", "\n").replace("\r", "\n").strip()
    return "" if INVISIBLE.fullmatch(text) else text


def _comment_rule(text: str, score: Any, kept: dict[str, float]) -> str | None:
    """The rule that removes a comment; None for a response."""
    if MODERATORS.search(text):
        return "comment by moderators"
    if REMOVED.fullmatch(text):
        return "comment removed or deleted"
    if not text:
        return "comment empty"
    if score is None or not math.isfinite(score):
        return "comment without votes"
    return TWICE if text in kept else None  # two copies have distance 0, and could become a pair


def _clean_comments(texts: list[Any], scores: list[Any], counts: Counts) -> dict[str, float]:
    """The comments of one post that are responses, in order, with their votes."""
    kept: dict[str, float] = {}
    for text, score in zip(map(_plain, texts), scores, strict=True):
        rule = _comment_rule(text, score, kept)
        if rule:
            counts[rule] += (0, 1)
        if rule in (None, TWICE):
            kept[text] = max(float(score), kept.get(text, -math.inf))
    return kept


def _clean_post(row: dict[str, Any], counts: Counts) -> list[tuple[str, str, str, float]]:
    """(title, prompt, text, votes) of each response of a post; none where a rule removes the post.

    The prompt is the title without its leading [tag], a line end, and the text if there is one.
    """
    texts, scores = row["comment_texts"], row["comment_scores"]
    size = np.array([1, len(texts or [])])
    counts["read"] += size
    tagged, body = _plain(row["post_title"]), _plain(row["post_text"])
    title = TAG.sub("", tagged)
    if None in (row["post_title"], texts, scores) or len(texts) != len(scores):
        counts["faulty row (no title, lists missing or unequal)"] += size
    elif any(REMOVED.fullmatch(part) for part in (tagged, title, body)):
        counts["post removed or deleted"] += size
    elif not title and not body:
        counts["post without title and text"] += size
    else:
        responses = _clean_comments(texts, scores, counts)
        counts["post without response left"] += (not responses, 0)
        prompt = f"{title}\n{body}".strip()
        return [(title, prompt, text, votes) for text, votes in responses.items()]
    return []


def _clean(source: str | Path, counts: Counts) -> pd.DataFrame:
    """All responses that the rules leave: prompt_id, title, prompt, text, score."""
    import pandas as pd

    columns = ["prompt_id", "title", "prompt", "text", "score"]
    # a frame for each batch: pandas 3 keeps texts as UTF-8, in half the memory of Python's strings
    frames = [pd.DataFrame(columns=columns)]
    place = 0
    for rows in _read_batches(source):
        cleaned = []
        for row in rows:
            try:
                responses = _clean_post(row, counts)
            except (AttributeError, TypeError):
                raise CourseError(f"Post {place} of {source} has a column of wrong type.") from None
            cleaned += [(f"wp{place:06d}", *response) for response in responses]
            place += 1
        frames.append(pd.DataFrame(cleaned, columns=columns))
    return pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)


def _token_counts(stories: pd.DataFrame, tokenizer: Any) -> np.ndarray:
    """Tokens of each conversation as the chat template writes it, BOS counted once."""
    talks = []
    for prompt, text in zip(stories["prompt"], stories["text"], strict=True):
        talks.append(as_messages("user", prompt) + as_messages("assistant", text))
    written = tokenizer.apply_chat_template(talks, tokenize=False)
    # the template has written the special tokens: the tokenizer would write BOS once more
    ids = tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
    return np.array([len(row) for row in ids])


def _draw(
    stories: pd.DataFrame, tokenizer: Any, max_length: int, prompts: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) bool, whether the post is drawn; (rows,) bool, whether the response is short enough.

    Posts come in random order until `prompts` have a response that is short enough: a smaller draw
    is part of a larger one, and the posts after it are not tokenised. 0 draws all.
    """
    turn, ids = stories["prompt_id"].factorize()
    if prompts:
        turn = np.random.default_rng(seed).permutation(len(ids))[turn]
    rows = turn.argsort(kind="stable")
    fits = np.zeros(len(rows), dtype=bool)
    drawn = np.ones(len(rows), dtype=bool)
    starts = range(0, len(rows), BATCH)
    for start in progress_bar(starts, desc="lengths", unit=" stories", unit_scale=BATCH):
        part = slice(start, start + BATCH)  # a slice copies nothing
        if prompts:
            part = rows[part]
        fits[part] = _token_counts(stories.iloc[part], tokenizer) <= max_length
        if prompts:
            usable = np.unique(turn[fits])
            if len(usable) > prompts:  # one more than asked for: a batch may end within a post
                drawn = turn < usable[prompts]
                break
    return drawn, fits


def _key(text: str) -> str:
    """What reposts have in common: letters and digits without case, punctuation and spacing."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded)) or text


def split_posts(titles: list[str], prompts: list[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(posts,) bool, the tenth that is for testing; (posts,) int, the family of reposts.

    Posts with the same title or prompt (letters and digits alone are compared) are one family, also
    when a third joins them. A family lies on one side. Families are taken in the order of a seeded
    hash of their prompts, so that a sample agrees with the whole on nearly every post. Of two or
    more families one at least is for testing.
    """
    import pandas as pd
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(prompts)
    hashes = []
    first: dict[tuple[str, Any], int] = {}  # the first post that has a prompt or title
    same_prompt, same_title = np.arange(n), np.arange(n)
    for post, (title, prompt) in enumerate(zip(titles, prompts, strict=True)):
        key = _key(prompt)
        same_prompt[post] = first.setdefault(("prompt", key), post)
        same_title[post] = first.setdefault(("title", _key(title) or post), post)
        seeded = f"{seed}:{key}".encode()
        hashes.append(hashlib.blake2b(seeded, digest_size=8).hexdigest())
    posts = np.tile(np.arange(n), 2)
    linked = np.concatenate([same_prompt, same_title])
    graph = coo_matrix((np.ones(2 * n), (posts, linked)), shape=(n, n))
    _, family = connected_components(graph, directed=False)

    sizes = np.bincount(family)
    room = max(1, round(n / 10))
    test: list[int] = []
    if len(sizes) > 1:
        for label in pd.Series(hashes).groupby(family).min().sort_values().index:
            if sizes[label] <= room:
                test.append(label)
                room -= sizes[label]
        test = test or [sizes.argmin()]
    return np.isin(family, test), family


def load_writing_prompts(
    source: str | Path, tokenizer: Any, max_length: int = 2048, prompts: int = 0, seed: int = 42
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The data set as a corpus, and a report (plain numbers) of what each rule removed.

    The corpus has one response a row, in order: prompt_id ("wp" and the post's row in the source),
    prompt, text, score (votes), source, writer (""), split. A post with one response is kept for
    SFT. Reposts keep their own prompt_id, as votes can be compared only within a post.

    Args:
        source: the Hub id, a parquet file of its schema, or a folder of such files.
        tokenizer: the policy's, with a chat template.
        max_length: most tokens of prompt and response together under the chat template.
        prompts: posts to draw among those with a response short enough; 0 keeps all.
        seed: of the draw and of the split.

    Raises:
        CourseError: the source cannot be read, or nothing of it is left; no chat template.
    """
    import pyarrow as pa

    if not getattr(tokenizer, "chat_template", None):
        raise CourseError("The tokenizer has no chat template: set `tokenizer` to an instruct one.")
    counts: Counts = {name: np.zeros(2, dtype=int) for name in ("read", *RULES)}
    frame = _clean(source, counts)
    drawn, fits = _draw(frame, tokenizer, max_length, prompts, seed)
    kept = drawn & fits
    if not kept.any():
        raise CourseError(f"No response of {Path(source).name} is left: check it and max_length.")
    ids = frame["prompt_id"]
    counts["post not drawn"] += (ids[~drawn].nunique(), (~drawn).sum())
    counts["response too long with its prompt"] += (0, (drawn & ~fits).sum())
    without = ids[drawn].nunique() - ids[kept].nunique()
    counts["post without response short enough"] += (without, 0)

    # by Arrow, piece by piece: pandas would first copy all texts
    frame = pa.Table.from_pandas(frame, preserve_index=False).filter(pa.array(kept)).to_pandas()
    posts = frame.drop_duplicates("prompt_id")
    test, family = split_posts(posts["title"].tolist(), posts["prompt"].tolist(), seed)
    in_test = test[frame["prompt_id"].factorize()[0]]
    frame = frame.drop(columns="title").assign(source="r/writingPrompts", writer="")
    frame["split"] = np.where(in_test, "test", "train")
    report = {
        "source": Path(source).name if _parquet_files(source) else str(source),
        "read": counts["read"].tolist(),
        "removed": {rule: counts[rule].tolist() for rule in RULES},
        "left": [len(posts), len(frame)],
        "train": [int((~test).sum()), int((~in_test).sum())],
        "test": [int(test.sum()), int(in_test.sum())],
        "single": int((frame.groupby("prompt_id").size() == 1).sum()),
        "reposts": int((np.bincount(family)[family] > 1).sum()),
    }
    return frame, report


def print_report(report: dict[str, Any]) -> None:
    """Prints what was read, what each rule removed, and what is left beside the paper's counts."""
    rows = {"read": report["read"], **report["removed"]}
    for side in PAPER:
        rows[side] = report[side]
    source = report["source"]
    width = max(map(len, (source, *rows)))
    print(f"{source:{width}}     posts   responses     paper")
    for name, (posts, responses) in rows.items():
        paper = f"{PAPER[name]:9,}" if name in PAPER else ""
        print(f"{name:{width}} {posts:9,} {responses:11,} {paper}".rstrip())
    print(
        f"Posts with a single response: {report['single']:,}; "
        f"that share title or prompt: {report['reposts']:,}.\n"
        "paper: its prompt-response pairs from the whole data set, no target for a part of it."
    )


def _fingerprint(profile: Profile, tokenizer: Any) -> str:
    """A digest of all that decides the result, and of how the tokenizer counts."""
    files = []
    for path in _parquet_files(profile.data):
        stat = path.stat()
        files.append((path.name, stat.st_size, stat.st_mtime_ns))
    return short_digest(
        files or str(profile.data),
        VERSION,
        profile.max_length,
        profile.prompts,
        profile.seed,
        tokenizer.chat_template,
        len(tokenizer),
        tokenizer(PROBE, add_special_tokens=False)["input_ids"],
    )


def stories_of(profile: Profile, tokenizer: Any, folder: Path) -> pd.DataFrame:
    """The profile's stories, by `load_stories` or, for r/writingPrompts, by `load_writing_prompts`.

    r/writingPrompts is prepared once for a source, settings and tokenizer, then read from `folder`;
    of several processes one works and the others wait. The first process of a launch prints the
    report. Raises CourseError as those two, or where the folder cannot be written.
    """
    import pandas as pd
    from filelock import FileLock

    if not is_writing_prompts(profile.data):
        return load_stories(profile.data)
    table = folder / f"writing_prompts-{_fingerprint(profile, tokenizer)}.parquet"
    account = table.with_suffix(".json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(table.with_suffix(".lock")):
            if not (table.is_file() and account.is_file()):
                frame, report = load_writing_prompts(
                    profile.data, tokenizer, profile.max_length, profile.prompts, profile.seed
                )
                write_json(account, report)
                with replacing(table) as part:
                    frame.to_parquet(part, index=False)
    except OSError as error:
        raise CourseError(f"{folder} cannot be written ({error.strerror or error}).") from None
    if os.environ.get("RANK", "0") == "0":
        print_report(read_json(account))
    return pd.read_parquet(table)
