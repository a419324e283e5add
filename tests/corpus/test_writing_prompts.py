"""r/writingPrompts in: every rule against a slow re-count of awkward posts."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
from awkward_posts import post, write_posts

from ddpo_utils import load_stories, make_pairs
from ddpo_utils.corpus.posts import RULES
from ddpo_utils.corpus.writing_prompts import load_writing_prompts

pytest_plugins = ["posts_fixtures"]


def seen(text: str | None) -> str:
    """A text as the corpus should hold it, written without the package's patterns."""
    text = "\n".join("\n".join((text or "").split("\r\n")).split("\r")).strip()
    left = text.lower().replace("&#x200b;", "").replace("&nbsp;", "")
    return (
        text
        if any(not c.isspace() and c not in "\u200b\u200c\u200d\u2060\ufeff" for c in left)
        else ""
    )


def taken_away(text: str) -> bool:
    text = text.lower()
    inner = text[1:-1].strip() if text[:1] == "[" and text[-1:] == "]" else ""
    return inner in ("removed", "deleted") or inner.startswith(("removed by ", "deleted by "))


def untagged(title: str) -> str:
    return (
        title[title.index("]") + 1 :].strip() if title.startswith("[") and "]" in title else title
    )


def tokens(tokenizer, prompt: str, text: str) -> int:
    talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
    return len(tokenizer.apply_chat_template(talk, tokenize=True)["input_ids"])


def recount(rows, tokenizer, max_length):
    """Posts and responses that each rule should remove, one comment at a time, and the responses left."""
    gone, kept = {rule: [0, 0] for rule in range(len(RULES))}, []
    for place, row in enumerate(rows):
        texts, scores = row["comment_texts"], row["comment_scores"]
        title, body = seen(row["post_title"]), seen(row["post_text"])
        prompt = (untagged(title) + "\n" + body).strip()
        whole = None
        if (
            row["post_title"] is None
            or texts is None
            or scores is None
            or len(texts) != len(scores)
        ):
            whole = 0
        elif taken_away(title) or taken_away(body) or taken_away(untagged(title)):
            whole = 1
        elif prompt == "":
            whole = 2
        if whole is not None:
            gone[whole][0] += 1
            gone[whole][1] += 0 if texts is None else len(texts)
            continue
        fit, best = [], {}
        for text, score in zip(map(seen, texts), scores, strict=True):
            low = text.lower()
            if (
                "**welcome to the prompt!**" in low
                or "submission has been removed" in low
                or "**off-topic" in low
            ):
                gone[3][1] += 1
            elif taken_away(text):
                gone[4][1] += 1
            elif not text:
                gone[5][1] += 1
            elif score is None:
                gone[6][1] += 1
            elif text in best:
                gone[7][1] += 1
                best[text] = max(best[text], score)
            else:
                best[text] = score
                fit.append(text)
        short = [text for text in fit if tokens(tokenizer, prompt, text) <= max_length]
        gone[10][1] += len(fit) - len(short)
        if not short:
            gone[11 if fit else 8][0] += 1
        kept += [(f"wp{place:06d}", prompt, text, float(best[text])) for text in short]
    return {RULES[number]: pair for number, pair in gone.items()}, kept


@pytest.mark.parametrize("max_length", [2048, 150])
def test_every_rule_removes_what_a_slow_count_says(awkward, tokenizer, max_length):
    frame, report = load_writing_prompts(str(awkward), tokenizer, max_length, progress=False)
    rows = pq.read_table(awkward).to_pylist()
    removed, kept = recount(rows, tokenizer, max_length)
    assert report["removed"] == removed
    assert (
        list(frame[["prompt_id", "prompt", "text", "score"]].itertuples(index=False, name=None))
        == kept
    )
    unused = {rule for rule, pair in removed.items() if pair == [0, 0]}
    assert unused == {"post not drawn"}  # every other rule has something to do in this file
    assert report["read"] == [len(rows), sum(len(row["comment_texts"] or []) for row in rows)]
    for n in (0, 1):
        assert report["read"][n] - sum(pair[n] for pair in removed.values()) == report["left"][n]
        assert report["train"][n] + report["test"][n] == report["left"][n]
    assert report["left"] == [frame["prompt_id"].nunique(), len(frame)]
    sizes = frame.groupby("prompt_id").size()
    assert report["single"] == (sizes == 1).sum() > 0
    for side in ("train", "test"):
        part = frame[frame["split"] == side]
        assert report[side] == [part["prompt_id"].nunique(), len(part)]
    json.dumps(report)


def test_the_frame_is_a_corpus(loaded):
    frame, report = loaded
    assert frame.columns.tolist() == [
        "prompt_id",
        "prompt",
        "text",
        "score",
        "source",
        "writer",
        "split",
    ]
    assert frame["score"].dtype == float and frame["score"].min() < 0
    assert set(frame["source"]) == {"r/writingPrompts"} and set(frame["writer"]) == {""}
    pd.testing.assert_frame_equal(load_stories(frame), frame)
    assert (
        not frame.duplicated(["prompt_id", "text"]).any()
        and not frame["text"].str.contains("\r").any()
    )
    assert report["test"][0] == round(report["left"][0] / 10)


@pytest.mark.parametrize(
    ("start", "prompt"),
    [
        ("The lamp", "The lamp answers back."),
        ("[WP] Two tags", "[WP] Two tags stand before this one."),
        ("No tag", "No tag at all, and an [unnamed] island in the middle"),
        ("[WP is", "[WP is never closed, so it stays"),
        ("The title was", "The title was only a tag; the prompt is down here."),
        ("Null where", "Null where the text should be"),
        ("Spaces", "Spaces on every side\nWrite it backwards."),
        ("Title on", "Title on\ntwo lines\nand text\n\nfrom Windows"),
        ("Only the times", "Only the times are short, and nobody reads them"),
        ("月", "月の上の古い図書館 🌕📚\nЛюбой жанр, пожалуйста."),
    ],
)
def test_prompts_are_made_of_title_and_text(loaded, start, prompt):
    found = loaded[0].loc[loaded[0]["prompt"].str.startswith(start), "prompt"].unique().tolist()
    assert found == [prompt]


def responses_of(frame, start):
    return frame[frame["prompt"].str.startswith(start)].set_index("text")["score"]


def test_a_comment_posted_twice_is_one_response_with_its_best_votes(loaded):
    votes = responses_of(loaded[0], "Somebody pressed").tolist()
    assert votes == [30, -2, 7, 0]  # in the order of the first copies
    # under another post the same text is another response, with its own votes
    twice = responses_of(loaded[0], "Somebody pressed").index[0]
    assert sorted(loaded[0].loc[loaded[0]["text"] == twice, "score"]) == [2, 30]


def test_scripts_and_emoji_come_through(loaded):
    texts = responses_of(loaded[0], "月").index.tolist()
    assert texts[0].startswith("👩‍🚀 writes: «Дверь") and texts[3] == "🙂🙃🙂"
    assert texts[4] == "Ěščřž — naïve façade, 𝔣𝔯𝔞𝔨𝔱𝔲𝔯, e\u0301 and é."
    told = responses_of(loaded[0], "Comments were removed").index.tolist()
    assert len(told) == 3 and "[removed]" in told[-1]


@pytest.mark.parametrize("over", [0, 1])
def test_the_length_is_exact_and_bos_is_counted_once(tmp_path, tokenizer, over):
    source = write_posts(
        tmp_path / "p.parquet",
        [post("[WP] A", "", ["one bell", "one bell rang, and rang"], [1, 2])],
    )
    sizes = [tokens(tokenizer, "A", text) for text in ("one bell", "one bell rang, and rang")]
    tokenizer(
        "x " * 50, truncation=True, max_length=5
    )  # what an earlier caller asked for stays out of it
    frame, report = load_writing_prompts(source, tokenizer, max(sizes) - over, progress=False)
    assert len(frame) == 2 - over and report["removed"]["response too long with its prompt"] == [
        0,
        over,
    ]


def test_pairs_from_votes(loaded):
    frame, _ = loaded
    pairs = make_pairs(frame, min_gap=5)
    used = [*pairs["chosen_row"], *pairs["rejected_row"]]
    assert len(used) == len(set(used)) and (pairs["gap"] > 0).all()
    by_prompt = pairs.groupby("prompt")["gap"]
    for start, number in (("All tied", 0), ("A lonely", 0), ("All below zero", 2)):
        assert sum(prompt.startswith(start) for prompt in pairs["prompt"]) == number
    assert len(by_prompt.get_group("A thousand answers")) >= 490
    sides = frame.set_index("prompt_id")["split"].groupby(level=0).nunique()
    assert (sides == 1).all()
