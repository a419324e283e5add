"""r/writingPrompts as a corpus: one response a row, split by prompt, with an account of what was removed; stored once.

    stories = stories_of(profile, tokenizer, folder)    # for every profile: also the bundled stories and your own

Data set and split: arXiv 2503.17126, its data section. The rules of cleaning stand in `posts`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..settings import CourseError, Profile
from .posts import (
    LONG,
    NONE_SHORT,
    VERSION,
    Counts,
    batches,
    clean,
    draw,
    keep_short,
    parquet_files,
    read_rows,
)
from .stories import is_writing_prompts, load_stories

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_writing_prompts", "prepare", "print_report", "split_posts", "stories_of"]

PAPER = {
    "train": 421_330,
    "test": 45_868,
}  # prompt-response pairs of the whole data set (arXiv 2503.17126)


def _key(text: str) -> str:
    """What reposts of a prompt have in common: letters and digits, whatever the case, punctuation and spacing."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())) or text


def split_posts(titles: list[str], prompts: list[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which posts are for testing (a tenth of them, at random), and which family of reposts each belongs to.

    Posts that share their title or their whole prompt, letters and digits alone compared, are one family, as are
    posts joined by a third; a family lies on one side. Families are taken in the order of a seeded hash of their
    prompts, so a post that a sample puts on one side is nearly always on the same side in the whole.

    Returns:
        (posts,) bool, true for testing, and (posts,) int family. Of two families and more, one at least is tested.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    keys = [_key(prompt) for prompt in prompts]
    nodes: dict[
        tuple[str, Any], int
    ] = {}  # a graph of posts on one hand, and of prompts and titles on the other
    ends = [nodes.setdefault(("prompt", key), len(nodes)) for key in keys]
    ends += [
        nodes.setdefault(("title", _key(t) if t else n), len(nodes)) for n, t in enumerate(titles)
    ]
    n, size = len(keys), len(keys) + len(nodes)
    edges = (np.tile(np.arange(n), 2), n + np.array(ends, dtype=int))
    family = connected_components(
        coo_matrix((np.ones(2 * n), edges), shape=(size, size)), directed=False
    )[1][:n]
    family = np.unique(family, return_inverse=True)[1]
    order: dict[int, bytes] = {}
    for label, key in zip(family.tolist(), keys, strict=True):
        hashed = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
        order[label] = min(hashed, order.get(label, hashed))
    sizes, room, test = np.bincount(family), max(1, round(n / 10)), []
    if len(sizes) > 1:
        for label in sorted(order, key=lambda label: order[label]):
            if sizes[label] <= room:
                test.append(label)
                room -= sizes[label]
        test = test or [sizes.argmin()]
    return np.isin(family, test), family


def load_writing_prompts(
    source: str | Path,
    tokenizer: Any,
    max_length: int = 2048,
    prompts: int = 0,
    seed: int = 42,
    streaming: bool = False,
    progress: bool = True,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The data set as a corpus, cleaned and split, and the report of what each rule removed.

    Args:
        source: the Hub id `euclaise/WritingPrompts_preferences`, a parquet file of its schema, or a folder of them.
        tokenizer: the model's, with its chat template: it decides which responses are too long.
        max_length: most tokens of prompt and response together under the chat template.
        prompts: posts to keep, drawn at random among those with a response short enough; 0 keeps all.
        seed: of the draw and of the split.
        streaming: take the Hub's rows as they come and store none of them; the result is the same. (A local file is
            always read in batches.)
        progress: show a bar over the posts.

    Returns:
        A frame, one response a row in the source's order: prompt_id ("wp" and the post's row in the source), prompt,
        text, score (votes; negative ones and ties are kept), source ("r/writingPrompts"), writer (""), split ("train"
        or "test"). A post with one response is kept: it serves SFT, and `corpus.make_pairs` passes it over. Reposts
        stay prompts of their own, as votes compare within a post only.
        And the report, plain numbers for `print_report` and JSON.

    Raises:
        CourseError: the source cannot be reached or read, has another schema, or nothing of it is left; or the
            tokenizer has no chat template.
    """
    import pandas as pd
    import pyarrow as pa

    if not getattr(tokenizer, "chat_template", None):
        raise CourseError(
            "The tokenizer has no chat template: set `tokenizer` to an instruct model's."
        )
    counts = Counts()
    shorten = partial(keep_short, tokenizer=tokenizer, max_length=max_length)
    posts = clean(read_rows(source, streaming, progress), counts)
    if prompts:
        posts = draw(posts, shorten, prompts, seed, counts)
    # kept as Arrow's UTF-8: as Python strings the whole data set would take several times the memory
    schema = pa.schema(
        [(name, pa.large_string()) for name in ("prompt_id", "prompt", "text")]
        + [("score", "double")]
    )
    tables, titles, texts = [], [], []
    for batch in batches(posts):
        if not prompts:
            shorten(batch)
        for post in batch:
            counts.remove(LONG, 0, post.long)
            counts.remove(NONE_SHORT, int(not post.responses), 0)
        batch = [post for post in batch if post.responses]
        titles += [post.title for post in batch]
        texts += [post.prompt for post in batch]
        rows = [
            (f"wp{post.place:06d}", post.prompt, *response)
            for post in batch
            for response in post.responses
        ]
        columns = {name: [row[n] for row in rows] for n, name in enumerate(schema.names)}
        tables.append(pa.table(columns, schema=schema))
    if not texts:
        raise CourseError(
            f"No response of {Path(source).name} is left after cleaning: check the file and max_length."
        )
    frame = pa.concat_tables(tables).to_pandas()
    test, family = split_posts(titles, texts, seed)
    of_row = pd.factorize(frame["prompt_id"])[0]
    frame["source"], frame["writer"], frame["split"] = (
        "r/writingPrompts",
        "",
        np.where(test[of_row], "test", "train"),
    )
    size = np.bincount(of_row)
    report = {
        "source": Path(source).name if parquet_files(source) else str(source),
        "settings": {"rules": VERSION, "max_length": max_length, "prompts": prompts, "seed": seed},
        "read": counts.read,
        "removed": counts.removed,
        "left": [len(size), len(frame)],
        "train": [int((~test).sum()), int(size[~test].sum())],
        "test": [int(test.sum()), int(size[test].sum())],
        "single": int((size == 1).sum()),
        "reposts": int((np.bincount(family)[family] > 1).sum()),
    }
    return frame, report


def print_report(report: dict[str, Any]) -> None:
    """Prints posts and responses that each rule removed, in order, and what is left, beside the paper's counts."""
    lines = [("read", *report["read"], "")]
    lines += [(f"- {rule}", *gone, "") for rule, gone in report["removed"].items()]
    lines += [("left", *report["left"], f"{sum(PAPER.values()):,}")]
    lines += [(f"  of which {side}", *report[side], f"{PAPER[side]:,}") for side in PAPER]
    width = max(len(name) for name in (report["source"], *(line[0] for line in lines)))
    print(f"{report['source']:{width}} {'posts':>9} {'responses':>11} {'paper':>9}")
    for name, posts, responses, paper in lines:
        print(f"{name:{width}} {posts:9,} {responses:11,} {paper:>9}".rstrip())
    print(
        f"Posts with a single response: {report['single']:,}; that share title or prompt: {report['reposts']:,}."
    )
    print(
        "paper: its count of prompt-response pairs from the whole data set, no target for a part of it."
    )


def _fingerprint(profile: Profile, tokenizer: Any) -> str:
    """Of all that decides the result: source, rules, settings, and how the tokenizer counts."""
    files = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in parquet_files(profile.data)
    ]
    probe = "Once, in the tide-wall: 42 doors... “Élodie?” 🙂 Старый дом, 老房子.\n\n\tHe'd know."
    ids = tokenizer(probe, add_special_tokens=False)["input_ids"]
    parts = [
        files or str(profile.data),
        VERSION,
        profile.max_length,
        profile.prompts,
        profile.seed,
        tokenizer.chat_template,
        len(tokenizer),
        ids,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _stored(table: Path, account: Path) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """What an earlier call has stored; None where it is absent, broken off or damaged."""
    import pandas as pd

    try:
        report = json.loads(account.read_text(encoding="utf-8"))
        frame = pd.read_parquet(table)
        return (frame, report) if report["left"][1] == len(frame) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def prepare(profile: Profile, tokenizer: Any, folder: Path) -> pd.DataFrame:
    """The frame of `load_writing_prompts` under the profile's settings, made once, then read from `folder`.

    Two files hold it, each appearing in one step: writing_prompts-<fingerprint>.parquet and, when that is whole, the
    report as .json. Another source, setting, tokenizer or version of the rules has another fingerprint; of several
    processes one works and the others wait. The report is printed at every call (by the first process of a launch).

    Raises:
        CourseError: as `load_writing_prompts`, or the folder cannot be written.
    """
    from filelock import FileLock

    stem = f"writing_prompts-{_fingerprint(profile, tokenizer)}"
    table, account = folder / f"{stem}.parquet", folder / f"{stem}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{stem}.lock"):
            made = _stored(table, account)
            if made is None:
                made = load_writing_prompts(
                    profile.data, tokenizer, profile.max_length, profile.prompts, profile.seed
                )
                made[0].to_parquet(folder / f"{stem}.part", index=False)
                os.replace(folder / f"{stem}.part", table)
                (folder / f"{stem}.part").write_text(
                    json.dumps(made[1], indent=1), encoding="utf-8"
                )
                os.replace(folder / f"{stem}.part", account)
    except OSError as error:
        raise CourseError(
            f"The stories cannot be stored in {folder} ({error.strerror or error}): free some gigabytes there, or "
            "check your rights to it."
        ) from None
    if os.environ.get("RANK", "0") == "0":
        print_report(made[1])
    return made[0]


def stories_of(profile: Profile, tokenizer: Any, folder: Path) -> pd.DataFrame:
    """The profile's stories: r/writingPrompts through `prepare`, everything else through `corpus.load_stories`.

    Args:
        profile: `data` names the stories.
        tokenizer: the policy's; only r/writingPrompts needs it, to tell what is too long.
        folder: where the prepared r/writingPrompts lies, or will.
    """
    if is_writing_prompts(profile.data):
        return prepare(profile, tokenizer, folder)
    return load_stories(profile.data)
