"""r/writingPrompts as a corpus: cleaned, drawn, cut to length, split by prompt, and stored once.

The split follows arXiv 2503.17126, its data section.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..settings import CourseError, Profile, progress_bar
from ..storage.files import (
    check_seal,
    read_json,
    replacing,
    seal,
    short_digest,
    write_json,
)
from ..storage.locks import locked
from .posts import BATCH, RULES, Counts, clean_posts, parquet_files
from .stories import is_writing_prompts, read_stories
from .text import as_messages

VERSION = 2  # of rules and draw: raise it with any change to them, and stored results are made anew
PAPER = {"left": 467_198, "train": 421_330, "test": 45_868}  # its responses, whole data set
PROBE = "Once, in the tide-wall: 42 doors... “Élodie?” 🙂 Старый дом, 老房子.\n\n\tHe'd know."


def token_counts(stories: pd.DataFrame, tokenizer: Any) -> np.ndarray:
    """Tokens (N,) of each conversation as the chat template writes it, BOS counted once."""
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
    starts = range(0, len(rows), BATCH)
    for start in progress_bar(starts, desc="lengths", unit=" stories", unit_scale=BATCH):
        part = rows[start : start + BATCH]
        fits[part] = token_counts(stories.iloc[part], tokenizer) <= max_length
        usable = np.unique(turn[fits]) if prompts else ()
        if len(usable) > prompts:  # one more than asked for: a batch may end within a post
            return turn < usable[prompts], fits
    return np.ones(len(rows), dtype=bool), fits


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
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(prompts)
    keys = [_key(prompt) for prompt in prompts]
    titles_or_own = [_key(title) or post for post, title in enumerate(titles)]
    prompt_of, _ = pd.factorize(np.array(keys, dtype=object))
    title_of, _ = pd.factorize(np.array(titles_or_own, dtype=object))
    posts = np.tile(np.arange(n), 2)
    linked = np.concatenate([n + prompt_of, 2 * n + title_of])  # a node each prompt and title
    graph = coo_matrix((np.ones(2 * n), (posts, linked)), shape=(3 * n, 3 * n))
    family = connected_components(graph, directed=False)[1][:n]
    seeded = [hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).hexdigest() for key in keys]

    sizes = np.bincount(family)
    room = max(1, round(n / 10))
    test: list[int] = []
    if len(sizes) > 1:
        order = pd.Series(seeded).groupby(family).min().sort_values()
        for label in order.index:
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
    frame = clean_posts(source, counts)
    drawn, fits = _draw(frame, tokenizer, max_length, prompts, seed)
    kept = drawn & fits
    if not kept.any():
        raise CourseError(f"No response of {Path(source).name} is left: check it and max_length.")
    ids = frame["prompt_id"]
    counts["post not drawn"] += (ids[~drawn].nunique(), (~drawn).sum())
    counts["response too long with its prompt"] += (0, (drawn & ~fits).sum())
    emptied = ids[drawn].nunique() - ids[kept].nunique()
    counts["post without response short enough"] += (emptied, 0)

    # by Arrow, piece by piece: pandas would first copy all texts
    frame = pa.Table.from_pandas(frame, preserve_index=False).filter(pa.array(kept)).to_pandas()
    posts = frame.drop_duplicates("prompt_id")
    titles, texts = posts["title"].tolist(), posts["prompt"].tolist()
    test, family = split_posts(titles, texts, seed)
    post_of_row, _ = frame["prompt_id"].factorize()
    in_test = test[post_of_row]
    frame = frame.drop(columns="title").assign(source="r/writingPrompts", writer="")
    frame["split"] = np.where(in_test, "test", "train")
    responses = frame.groupby("prompt_id").size()
    family_sizes = np.bincount(family)
    report = {
        "source": Path(source).name if parquet_files(source) else str(source),
        "read": counts["read"].tolist(),
        "removed": {rule: counts[rule].tolist() for rule in RULES},
        "left": [len(posts), len(frame)],
        "train": [int((~test).sum()), int((~in_test).sum())],
        "test": [int(test.sum()), int(in_test.sum())],
        "single": int((responses == 1).sum()),
        "reposts": int((family_sizes[family] > 1).sum()),
    }
    return frame, report


def print_report(report: dict[str, Any]) -> None:
    """Prints what was read, what each rule removed, and what is left beside the paper's counts."""
    rows = {"read": report["read"], **report["removed"], **{side: report[side] for side in PAPER}}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["posts", "responses"])
    table = table.assign(paper=pd.Series(PAPER)).map("{:,.0f}".format).replace("nan", "")
    print(
        f"{report['source']}\n{table.to_string()}\n"
        f"Posts with a single response: {report['single']:,}; "
        f"that share title or prompt: {report['reposts']:,}.\n"
        "paper: its prompt-response pairs from the whole data set, no target for a part of it."
    )


def _fingerprint(profile: Profile, tokenizer: Any) -> str:
    """A digest of all that decides the result, and of how the tokenizer counts."""
    files = []
    for path in parquet_files(profile.data):
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
    """The profile's stories, by `read_stories` or, for r/writingPrompts, by `load_writing_prompts`.

    r/writingPrompts is prepared once for a source, settings and tokenizer, then read from `folder`;
    of several processes one works and the others wait. The first process of a launch prints what
    was left out. Raises CourseError as those two, or where what was prepared is damaged or cannot
    be written.
    """
    first = os.environ.get("RANK", "0") == "0"
    if not is_writing_prompts(profile.data):
        frame, reading = read_stories(profile.data, profile.columns)
        if first and profile.data != "bundled":
            print(reading)
        return frame
    prepared = folder / f"writing_prompts-{_fingerprint(profile, tokenizer)}"
    with locked(prepared, wait=True):
        if not prepared.exists():
            frame, report = load_writing_prompts(
                profile.data, tokenizer, profile.max_length, profile.prompts, profile.seed
            )
            with replacing(prepared) as part:
                part.mkdir()
                frame.to_parquet(part / "stories.parquet", index=False)
                write_json(part / "report.json", report)
                seal(part)
        check_seal(prepared)
    if first:
        print_report(read_json(prepared / "report.json"))
    return pd.read_parquet(prepared / "stories.parquet")
