"""r/writingPrompts in: read, cleaned by rules that count what they remove, split by prompt, and stored once.

The data set (Hub: euclaise/WritingPrompts_preferences) has one post a row; a corpus has one response a row. Rules and
split follow arXiv 2503.17126, its data section; where they go further (duplicates, reposts, removed posts), the rule's
own line in the report says how much it took.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .corpus import as_messages, is_writing_prompts, load_stories
from .profiles import WRITING_PROMPTS, CourseError, Profile

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["load_writing_prompts", "prepare", "print_report", "stories_of"]

VERSION = 1  # of the rules below: raise it with any change to them, and stored results are made anew
PAPER = {"train": 421_330, "test": 45_868}  # prompt-response pairs of the whole data set (arXiv 2503.17126)
RULES = (
    "faulty row (no title, or lists missing or of different lengths)",
    "post removed or deleted",
    "post without any words in title and text",
    "comment by moderators",
    "comment removed or deleted",
    "comment empty",
    "comment without votes",
    "comment posted twice under one post (the most voted copy stays)",
    "post without any response left",
    "post not drawn",
    "longer than max_length with its prompt",
    "post without any response short enough",
)
FAULTY, GONE_POST, NO_PROMPT, MODERATOR, GONE, EMPTY, NO_VOTES, TWICE, NONE_LEFT, NOT_DRAWN, LONG, NONE_SHORT = RULES
MODERATORS = ("**welcome to the prompt!**", "this submission has been removed", "**off-topic discussion**")
REMOVED = re.compile(r"\[\s*(removed|deleted)(\s+by\s[^\]]*)?\]", re.IGNORECASE)
TAG = re.compile(r"\s*\[[^\]]*\]")
INVISIBLE = re.compile("(?:&#x200b;|&nbsp;|[\\s\u200b\u200c\u200d\u2060\ufeff])*", re.IGNORECASE)
BATCH = 1000  # posts read, and conversations tokenised, at a time


@dataclass
class Post:
    """One cleaned post: its place in the source, title and prompt, and responses with their votes."""

    place: int
    title: str
    prompt: str
    responses: list[tuple[str, float]]


class Counts:
    """Posts and responses that each rule removed."""

    def __init__(self) -> None:
        self.removed = {rule: [0, 0] for rule in RULES}
        self.read = [0, 0]

    def remove(self, rule: str, posts: int = 0, responses: int = 0) -> None:
        self.removed[rule][0] += posts
        self.removed[rule][1] += responses


def _files(source: str) -> list[Path]:
    """The parquet files of a local source, in order of name; none where it is the Hub's."""
    path = Path(source)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.suffix.lower() == ".parquet" else []
    if source != WRITING_PROMPTS and not (files and all(f.is_file() for f in files)):
        raise CourseError(f"There is no parquet file at {source}: check the path, or name the Hub's {WRITING_PROMPTS}.")
    return files


def _checked(schema: pa.Schema, name: str) -> None:
    import pyarrow.types as t

    def text(kind: pa.DataType) -> bool:
        return t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind)

    def listed(kind: pa.DataType, fits: Any) -> bool:
        return (t.is_list(kind) or t.is_large_list(kind)) and fits(kind.value_type)

    wanted = {
        "post_title": ("text", text),
        "post_text": ("text", lambda kind: text(kind) or t.is_null(kind)),
        "comment_texts": ("lists of text", lambda kind: listed(kind, text)),
        "comment_scores": ("lists of numbers", lambda k: listed(k, lambda v: t.is_integer(v) or t.is_floating(v))),
    }
    for column, (what, fits) in wanted.items():
        if column not in schema.names:
            raise CourseError(f"{name} has no column {column!r}: r/writingPrompts needs {', '.join(wanted)}.")
        if not fits(schema.field(column).type):
            kind = schema.field(column).type
            raise CourseError(f"The column {column!r} of {name} holds {kind} and not {what}: check the file.")


def _rows(source: str, streaming: bool, progress: bool) -> Iterator[dict[str, Any]]:
    """The source's rows in order, a batch in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tqdm.auto import tqdm

    columns = ["post_title", "post_text", "comment_texts", "comment_scores"]
    bar = tqdm(desc="posts", unit=" posts", disable=not progress)
    files = _files(source)
    try:
        if files:
            opened = [pq.ParquetFile(f) for f in files]
            for f, parquet in zip(files, opened, strict=True):
                _checked(parquet.schema_arrow, f.name)
            bar.reset(total=sum(parquet.metadata.num_rows for parquet in opened))
            batches = (b for parquet in opened for b in parquet.iter_batches(BATCH, columns=columns))
        else:
            from datasets import load_dataset

            data = load_dataset(source, split="train", streaming=streaming)
            bar.reset(total=None if streaming else len(data))
            batches = data.with_format("arrow").iter(BATCH)
        for number, batch in enumerate(batches):
            if not files and not number:
                _checked(batch.schema, source)
            for row in batch.to_pylist():
                bar.update()
                yield row
    except (OSError, ValueError, pa.ArrowException) as error:  # of which not UTF-8 is one
        where = "check the file" if files else "connect to a network, or name a parquet file or folder in `data`"
        raise CourseError(f"{source} cannot be read ({type(error).__name__}): {where}.") from None
    finally:
        bar.close()


def _plain(text: str | None) -> str:
    """Unix line ends and no space at either end; empty where nothing would be seen."""
    text = (text or "").replace("\r\n", "\n").replace("\r", "\n").strip()
    return "" if INVISIBLE.fullmatch(text) else text


def _cleaned(rows: Iterable[dict[str, Any]], counts: Counts) -> Iterator[Post]:
    """Posts with at least one response, by every rule that needs no tokenizer."""
    for place, row in enumerate(rows):
        texts, scores = row["comment_texts"], row["comment_scores"]
        size = len(texts or [])
        counts.read[0] += 1
        counts.read[1] += size
        title, body = _plain(row["post_title"]), _plain(row["post_text"])
        tagless = TAG.sub("", title, count=1).strip() if TAG.match(title) else title
        if row["post_title"] is None or texts is None or scores is None or len(texts) != len(scores):
            counts.remove(FAULTY, 1, size)
        elif REMOVED.fullmatch(title) or REMOVED.fullmatch(body):
            counts.remove(GONE_POST, 1, size)
        elif not (tagless or body):
            counts.remove(NO_PROMPT, 1, size)
        else:
            kept: dict[str, float] = {}
            for text, score in zip(map(_plain, texts), scores, strict=True):
                lower = text.lower()
                if any(mark in lower for mark in MODERATORS):
                    counts.remove(MODERATOR, 0, 1)
                elif REMOVED.fullmatch(text):
                    counts.remove(GONE, 0, 1)
                elif not text:
                    counts.remove(EMPTY, 0, 1)
                elif score is None or not np.isfinite(score):
                    counts.remove(NO_VOTES, 0, 1)
                elif text in kept:
                    counts.remove(TWICE, 0, 1)
                    kept[text] = max(kept[text], float(score))
                else:
                    kept[text] = float(score)
            if kept:
                yield Post(place, tagless, f"{tagless}\n{body}".strip(), list(kept.items()))
            else:
                counts.remove(NONE_LEFT, 1, 0)


def _drawn(posts: Iterable[Post], number: int, seed: int, counts: Counts) -> list[Post]:
    """`number` posts at random: those whose places in the source got the smallest random numbers."""
    rng, heap, upto = np.random.default_rng(seed), [], 0
    for post in posts:
        ticket = float(rng.random(post.place + 1 - upto)[-1])  # one number a row of the source, whatever its fate
        upto = post.place + 1
        out = heapq.heappush if len(heap) < number else heapq.heappushpop
        if gone := out(heap, (-ticket, post.place, post)):
            counts.remove(NOT_DRAWN, 1, len(gone[2].responses))
    return sorted((post for _, _, post in heap), key=lambda post: post.place)


def _short(posts: Iterable[Post], tokenizer: Any, max_length: int, counts: Counts) -> Iterator[Post]:
    """Posts with the responses that fit into `max_length` tokens together with prompt and chat template."""
    posts = iter(posts)
    while batch := list(islice(posts, BATCH)):
        flat = [(n, text, score) for n, post in enumerate(batch) for text, score in post.responses]
        fits = []
        for start in range(0, len(flat), BATCH):
            talks = [as_messages("user", batch[n].prompt) + as_messages("assistant", text)
                     for n, text, _ in flat[start : start + BATCH]]  # fmt: skip
            rendered = tokenizer.apply_chat_template(talks, tokenize=False)
            # the template has written every special token, BOS included
            ids = tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
            fits += [len(row) <= max_length for row in ids]
        for post in batch:
            post.responses = []
        for (n, text, score), fit in zip(flat, fits, strict=True):
            if fit:
                batch[n].responses.append((text, score))
            else:
                counts.remove(LONG, 0, 1)
        for post in batch:
            if post.responses:
                yield post
            else:
                counts.remove(NONE_SHORT, 1, 0)


def _key(text: str) -> str:
    """What two prints of the same prompt have in common: its letters and digits."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def split_posts(titles: list[str], prompts: list[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which posts are for testing (a tenth of them), and which family of reposts each belongs to.

    Posts that share title or whole prompt, letters and digits alone compared, are one family and fall on one side.
    Families are taken in the order of a seeded hash of their prompts, so a sample's split nearly agrees with that of
    the whole.

    Returns:
        (posts,) bool, true for test, and (posts,) int family.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n, codes = len(prompts), {}
    keys = [_key(p) for p in prompts]
    ends = [codes.setdefault(("prompt", key), len(codes)) for key in keys]
    ends += [codes.setdefault(("title", _key(t) if t else i), len(codes)) for i, t in enumerate(titles)]
    size = n + len(codes)
    graph = coo_matrix((np.ones(2 * n), (np.tile(np.arange(n), 2), n + np.array(ends, dtype=int))), shape=(size, size))
    family = connected_components(graph, directed=False)[1][:n]
    family = np.unique(family, return_inverse=True)[1]
    ticket: dict[int, bytes] = {}
    for f, key in zip(family.tolist(), keys, strict=True):
        drawn = hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        ticket[f] = min(drawn, ticket.get(f, drawn))
    sizes, test, room = np.bincount(family), [], max(1, round(n / 10))
    for f in sorted(ticket, key=ticket.__getitem__):
        if sizes[f] <= room and len(ticket) > 1:
            test.append(f)
            room -= int(sizes[f])
    if not test and len(ticket) > 1:
        test = [int(sizes.argmin())]
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
    """r/writingPrompts as a corpus, cleaned and split, and the account of what each rule removed.

    Args:
        source: the Hub id `euclaise/WritingPrompts_preferences`, a parquet file of its schema, or a folder of them.
        tokenizer: the model's, with its chat template; it decides what is too long.
        max_length: most tokens of prompt and response together under the chat template.
        prompts: posts to keep, drawn at random among those with a response; 0 keeps all.
        seed: of the draw and of the split.
        streaming: read the Hub's data set as it comes, and store nothing of it; the result is the same.
        progress: show a bar.

    Returns:
        A frame with one response a row, in the source's order: prompt_id, prompt, text, score (votes), source
        ("r/writingPrompts"), writer (""), split ("train" or "test"); and the report that `print_report` prints.

    Raises:
        CourseError: the source cannot be reached or read, has another schema, or nothing of it is left; or the
            tokenizer has no chat template.
    """
    import pandas as pd

    if not getattr(tokenizer, "chat_template", None):
        raise CourseError("The tokenizer has no chat template: name an instruct model's in the setting `tokenizer`.")
    counts = Counts()
    posts: Iterable[Post] = _cleaned(_rows(str(source), streaming, progress), counts)
    if prompts:
        posts = _drawn(posts, prompts, seed, counts)
    parts, kept = [], []
    posts = _short(posts, tokenizer, max_length, counts)
    while batch := list(islice(posts, BATCH)):
        kept += [(post.title, post.prompt) for post in batch]
        parts.append(pd.DataFrame(
            [(f"wp{post.place:06d}", post.prompt, text, score) for post in batch for text, score in post.responses],
            columns=["prompt_id", "prompt", "text", "score"],
        ).astype({"score": float}))  # fmt: skip
    if not parts:
        raise CourseError(f"No response of {Path(source).name} is left after cleaning: check it and max_length.")
    frame = pd.concat(parts, ignore_index=True)
    test, family = split_posts([title for title, _ in kept], [prompt for _, prompt in kept], seed)
    post_of_row = pd.factorize(frame["prompt_id"])[0]
    frame["source"], frame["writer"] = "r/writingPrompts", ""
    frame["split"] = np.where(test[post_of_row], "test", "train")
    rows = np.bincount(post_of_row)
    report = {
        "source": Path(source).name if _files(str(source)) else str(source),
        "rules": VERSION, "max_length": max_length, "seed": seed, "prompts_wanted": prompts,
        "read": counts.read, "removed": counts.removed, "left": [len(rows), len(frame)],
        "train": [int((~test).sum()), int(rows[~test].sum())], "test": [int(test.sum()), int(rows[test].sum())],
        "single": int((rows == 1).sum()), "reposts": int((np.bincount(family)[family] > 1).sum()),
    }  # fmt: skip
    return frame, report


def print_report(report: dict[str, Any]) -> None:
    """Prints what each rule removed and what is left, beside the paper's counts of prompt-response pairs."""
    lines = [("read", *report["read"], "")]
    lines += [(f"- {rule}", *gone, "") for rule, gone in report["removed"].items()]
    lines += [("left", *report["left"], f"{sum(PAPER.values()):,}")]
    lines += [(f"  {side}", *report[side], f"{PAPER[side]:,}") for side in PAPER]
    width = max(len(line[0]) for line in lines)
    print(f"{report['source']:{width}} {'posts':>9} {'responses':>10} {'paper':>9}")
    for name, posts, responses, paper in lines:
        print(f"{name:{width}} {posts:9,} {responses:10,} {paper:>9}".rstrip())
    print(
        f"{report['single']:,} posts have a single response; {report['reposts']:,} share title or prompt with another. "
        "The paper's column counts the prompt-response pairs of the whole data set: no target for a sample."
    )


def _fingerprint(profile: Profile, tokenizer: Any) -> str:
    """Of all that decides the result: source, rules, settings, and how the tokenizer counts."""
    files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in _files(str(profile.data))]
    probe = 'Once, in the tide-wall, 42 doors... "Élodie?" 🙂 Старый дом; 老房子.\n\nHe\'d know.'
    ids = tokenizer(probe, add_special_tokens=False)["input_ids"]
    parts = [files or str(profile.data), VERSION, profile.max_length, profile.prompts, profile.seed,
             tokenizer.chat_template, len(tokenizer), ids]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _stored(parquet: Path, account: Path) -> pd.DataFrame | None:
    import pandas as pd

    try:
        report = json.loads(account.read_text(encoding="utf-8"))
        frame = pd.read_parquet(parquet)
        return frame if len(frame) == report["left"][1] else None
    except (OSError, ValueError, KeyError, TypeError):  # absent or broken off: made anew
        return None


def prepare(profile: Profile, tokenizer: Any, folder: Path) -> pd.DataFrame:
    """The corpus of `load_writing_prompts` under a profile's settings, made once and then read from `folder`.

    Two files appear there, each in one step: writing_prompts-<fingerprint>.parquet and the report beside it as JSON.
    Another source, tokenizer or setting has another fingerprint. The report is printed each time.
    """
    from filelock import FileLock

    name = f"writing_prompts-{_fingerprint(profile, tokenizer)}"
    parquet, account = folder / f"{name}.parquet", folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):  # of several processes one prepares
        frame = _stored(parquet, account)
        if frame is None:
            frame, report = load_writing_prompts(
                profile.data, tokenizer, profile.max_length, profile.prompts, profile.seed
            )
            frame.to_parquet(parquet.with_suffix(".part"), index=False)
            os.replace(parquet.with_suffix(".part"), parquet)
            account.with_suffix(".part").write_text(json.dumps(report, indent=1), encoding="utf-8")
            os.replace(account.with_suffix(".part"), account)
    if os.environ.get("RANK", "0") == "0":
        print_report(json.loads(account.read_text(encoding="utf-8")))
    return frame


def stories_of(profile: Profile, tokenizer: Any, folder: Path) -> pd.DataFrame:
    """The profile's corpus: r/writingPrompts prepared in `folder`, or the bundled stories or your own as they are."""
    if is_writing_prompts(profile.data):
        return prepare(profile, tokenizer, folder)
    return load_stories(profile.data)
