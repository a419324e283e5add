"""r/writingPrompts in: every rule against a slow re-count, draw, split and store, and faults in one sentence."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from awkward_posts import awkward_posts, post, small_posts, write_posts
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpo_utils import CourseError, get_profile, load_stories, make_pairs, posts, writing_prompts
from ddpo_utils.posts import RULES, Counts, Post
from ddpo_utils.profiles import WRITING_PROMPTS
from ddpo_utils.writing_prompts import load_writing_prompts, prepare, print_report, split_posts, stories_of


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    """The tiny Llama's, made to write BOS before every text, as Llama's own does."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


@pytest.fixture(scope="module")
def awkward(tmp_path_factory) -> Path:
    return awkward_posts(tmp_path_factory.mktemp("awkward") / "posts.parquet")


@pytest.fixture(scope="module")
def loaded(awkward, tokenizer):
    return load_writing_prompts(awkward, tokenizer, progress=False)


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(CourseError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    assert caught.value.__context__ is None or caught.value.__suppress_context__  # no traceback from below
    return message


# ---- every rule, by hand ------------------------------------------------------------------------------------------


def seen(text: str | None) -> str:
    """A text as the corpus should hold it, written without the package's patterns."""
    text = "\n".join("\n".join((text or "").split("\r\n")).split("\r")).strip()
    left = text.lower().replace("&#x200b;", "").replace("&nbsp;", "")
    return text if any(not c.isspace() and c not in "\u200b\u200c\u200d\u2060\ufeff" for c in left) else ""


def taken_away(text: str) -> bool:
    text = text.lower()
    inner = text[1:-1].strip() if text[:1] == "[" and text[-1:] == "]" else ""
    return inner in ("removed", "deleted") or inner.startswith(("removed by ", "deleted by "))


def untagged(title: str) -> str:
    return title[title.index("]") + 1 :].strip() if title.startswith("[") and "]" in title else title


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
        if row["post_title"] is None or texts is None or scores is None or len(texts) != len(scores):
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
            if "**welcome to the prompt!**" in low or "submission has been removed" in low or "**off-topic" in low:
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
    assert list(frame[["prompt_id", "prompt", "text", "score"]].itertuples(index=False, name=None)) == kept
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
    assert frame.columns.tolist() == ["prompt_id", "prompt", "text", "score", "source", "writer", "split"]
    assert frame["score"].dtype == float and frame["score"].min() < 0
    assert set(frame["source"]) == {"r/writingPrompts"} and set(frame["writer"]) == {""}
    pd.testing.assert_frame_equal(load_stories(frame), frame)
    assert not frame.duplicated(["prompt_id", "text"]).any() and not frame["text"].str.contains("\r").any()
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
    source = write_posts(tmp_path / "p.parquet", [post("[WP] A", "", ["one bell", "one bell rang, and rang"], [1, 2])])
    sizes = [tokens(tokenizer, "A", text) for text in ("one bell", "one bell rang, and rang")]
    tokenizer("x " * 50, truncation=True, max_length=5)  # what an earlier caller asked for stays out of it
    frame, report = load_writing_prompts(source, tokenizer, max(sizes) - over, progress=False)
    assert len(frame) == 2 - over and report["removed"]["response too long with its prompt"] == [0, over]


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


# ---- sources ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(awkward, monkeypatch, tmp_path):
    """The Hub's data set, read by the real `datasets` from the awkward file: only the network is replaced."""
    import datasets

    load = datasets.load_dataset

    def stand_in(name, split, streaming):
        assert name == WRITING_PROMPTS
        return load("parquet", data_files=str(awkward), split=split, streaming=streaming, cache_dir=str(tmp_path))

    monkeypatch.setattr(datasets, "load_dataset", stand_in)


@pytest.mark.parametrize("prompts", [0, 9])
@pytest.mark.parametrize("streaming", [False, True])
def test_the_hub_gives_the_same_whole_and_streaming(hub, awkward, tokenizer, streaming, prompts):
    frame, report = load_writing_prompts(WRITING_PROMPTS, tokenizer, prompts=prompts, streaming=streaming)
    local, same = load_writing_prompts(awkward, tokenizer, prompts=prompts)
    pd.testing.assert_frame_equal(frame, local)
    assert report == {**same, "source": WRITING_PROMPTS}


@pytest.mark.parametrize("size", [1, 7, 30])
def test_batches_and_files_do_not_matter(awkward, loaded, tokenizer, tmp_path, monkeypatch, size):
    rows = pq.read_table(awkward)
    (tmp_path / "data").mkdir()
    for number, start in enumerate(range(0, len(rows), 50)):
        pq.write_table(rows.slice(start, 50), tmp_path / "data" / f"train-{number:05d}.parquet")
    monkeypatch.setattr(posts.batches, "__defaults__", (size,))
    monkeypatch.setattr(posts, "BATCH", size)
    frame, report = load_writing_prompts(tmp_path, tokenizer, progress=False)
    pd.testing.assert_frame_equal(frame, loaded[0])
    assert {**report, "source": ""} == {**loaded[1], "source": ""}


def test_large_types_and_a_column_of_nulls_are_read(tmp_path, tokenizer):
    table = pa.table(
        {
            "post_title": pa.array(["[WP] A"], pa.large_string()),
            "post_text": pa.nulls(1),
            "comment_texts": pa.array([["one", "two"]], pa.large_list(pa.large_string())),
            "comment_scores": pa.array([[1.0, float("nan")]], pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    frame, report = load_writing_prompts(tmp_path / "p.parquet", tokenizer, progress=False)
    assert frame["text"].tolist() == ["one"] and report["removed"]["comment without votes"] == [0, 1]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("post_title", None, "no column 'post_title'"),
        ("post_text", None, "no column 'post_text'"),
        ("comment_texts", None, "no column 'comment_texts'"),
        ("comment_scores", None, "no column 'comment_scores'"),
        ("post_title", [1, 2], "'post_title' of p.parquet holds int64 in place of text"),
        ("comment_texts", ["one", "two"], "'comment_texts' of p.parquet holds string in place of lists of text"),
        ("comment_texts", [[1], [2]], "'comment_texts' of p.parquet holds .* in place of lists of text"),
        ("comment_scores", [["1"], ["2"]], "'comment_scores' of p.parquet holds .* in place of lists of numbers"),
        ("comment_scores", [3, 4], "'comment_scores' of p.parquet holds int64 in place of lists of numbers"),
    ],
)
@pytest.mark.parametrize("second", [False, True])
def test_a_wrong_schema_names_the_column(tmp_path, tokenizer, column, values, message, second):
    table = pq.read_table(small_posts(tmp_path / "a.parquet", posts=2))
    place = table.column_names.index(column)
    table = table.remove_column(place) if values is None else table.set_column(place, column, pa.array(values))
    pq.write_table(table, tmp_path / "p.parquet")
    said = refusal(load_writing_prompts, tmp_path if second else tmp_path / "p.parquet", tokenizer)
    assert re.search(message, said)


def test_sources_that_cannot_be_read(tmp_path, tokenizer):
    def said(source):
        return refusal(load_writing_prompts, source, tokenizer)

    assert "no parquet file" in said(tmp_path / "none.parquet")
    assert "no parquet file" in said(tmp_path)
    (tmp_path / "text.parquet").write_text("not parquet", encoding="utf-8")
    assert "text.parquet cannot be read (ArrowInvalid): check the file" in said(tmp_path / "text.parquet")
    whole = small_posts(tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in said(tmp_path / "cut.parquet")
    damaged = bytearray(whole)
    damaged[20:400] = bytes(380)
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    assert "cannot be read" in said(tmp_path / "damaged.parquet")
    assert "connect to a network" in said(WRITING_PROMPTS)
    gone = write_posts(tmp_path / "gone.parquet", [post("[WP] A", "", ["[removed]"], [1])])
    assert "No response of gone.parquet is left" in said(gone)


def test_a_tokenizer_without_a_template_is_refused(awkward, tiny):
    _, tokenizer = tiny
    tokenizer.chat_template = None
    assert "no chat template" in refusal(load_writing_prompts, awkward, tokenizer)


# ---- the draw -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [2048, 150])
def test_a_draw_keeps_as_many_posts_as_asked_for(awkward, tokenizer, max_length):
    whole, full = load_writing_prompts(awkward, tokenizer, max_length, progress=False)
    drawn = {}
    for number in (1, 4, 10, full["left"][0], 1000):
        frame, report = load_writing_prompts(awkward, tokenizer, max_length, prompts=number, progress=False)
        drawn[number] = set(frame["prompt_id"])
        assert report["left"][0] == len(drawn[number]) == min(number, full["left"][0])
        for n in (0, 1):
            assert report["read"][n] - sum(pair[n] for pair in report["removed"].values()) == report["left"][n]
        columns = ["prompt_id", "prompt", "text", "score"]
        expected = whole.loc[whole["prompt_id"].isin(drawn[number]), columns].reset_index(drop=True)
        pd.testing.assert_frame_equal(frame[columns], expected)
    assert drawn[1] < drawn[4] < drawn[10] < drawn[1000] == set(whole["prompt_id"])
    other, _ = load_writing_prompts(awkward, tokenizer, max_length, prompts=10, seed=1, progress=False)
    assert set(other["prompt_id"]) != drawn[10]


def fake_posts(fates: list[int]) -> list[Post]:
    """Posts of 3 responses; fate 0 is no post at all, 1 one whose responses are all too long, 2 a good one."""
    return [Post(i, "t", "p", [("a", 1.0), ("b", 2.0), ("c", 3.0)]) for i, fate in enumerate(fates) if fate]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    fates=st.lists(st.integers(0, 2), max_size=60),
    number=st.integers(1, 20),
    seed=st.integers(0, 9),
    size=st.sampled_from([1, 4, 100]),
)
def test_the_draw_takes_the_smallest_numbers(fates, number, seed, size):
    measured = []

    def shorten(batch):
        measured.extend(batch)
        for one in batch:
            if fates[one.place] == 1:
                one.responses, one.long = [], 3

    counts = Counts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posts.batches, "__defaults__", (size,))
        got = posts.draw(fake_posts(fates), shorten, number, seed, counts)
    tickets = np.random.default_rng(seed).random(len(fates))
    good = sorted((i for i, fate in enumerate(fates) if fate == 2), key=lambda i: tickets[i])[:number]
    limit = tickets[good[-1]] if len(good) == number else 1.0
    bad = [i for i, fate in enumerate(fates) if fate == 1 and tickets[i] <= limit]
    assert [one.place for one in got] == sorted([*good, *bad])
    left_out = sum(fate > 0 for fate in fates) - len(good) - len(bad)
    assert counts.removed["post not drawn"] == [left_out, 3 * left_out]
    assert {one.place for one in got} <= {one.place for one in measured}


def test_every_post_is_drawn_equally_often(monkeypatch):
    monkeypatch.setattr(posts.batches, "__defaults__", (3,))
    hits = np.zeros(20)
    for seed in range(2000):
        got = [one.place for one in posts.draw(fake_posts([2] * 20), lambda batch: None, 5, seed, Counts())]
        assert got == sorted(np.random.default_rng(seed).random(20).argsort()[:5])
        hits[got] += 1
    assert ((hits > 400) & (hits < 600)).all()  # 500 expected, standard deviation 19


def test_only_posts_in_the_running_are_tokenised(monkeypatch):
    monkeypatch.setattr(posts.batches, "__defaults__", (10,))
    measured = []
    posts.draw(fake_posts([2] * 1000), measured.extend, 10, 0, Counts())
    assert 10 <= len(measured) < 200


# ---- the split ----------------------------------------------------------------------------------------------------


def test_reposts_stay_together_and_prompts_of_their_own(loaded):
    frame, report = loaded
    first = frame.drop_duplicates("prompt_id")
    for family, size in (("door opens", 3), ("cartographer", 3)):
        part = first[first["prompt"].str.lower().str.contains(family)]
        part = part[~part["prompt"].str.startswith("Filler")]
        assert len(part) == size and part["split"].nunique() == 1
    assert report["reposts"] == 6


def test_reposts_are_told_by_title_or_prompt():
    titles = ["A door!", "", "a  DOOR", "Other", "Other door", "", "", "🙂", "🙃"]
    prompts = ["A door!", "B", "a  DOOR\ntext", "Other\ndoor", "Other door", "C", "b.", "🙂", "🙃"]
    family = split_posts(titles, prompts, 0)[1]
    together = {(i, j) for i, j in combinations(range(len(titles)), 2) if family[i] == family[j]}
    assert together == {(0, 2), (1, 6), (3, 4)}  # empty titles join nobody, and emoji alone are told apart


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=80),
    seed=st.integers(0, 99),
)
def test_the_rules_of_the_split(pairs, seed):
    titles = [f"title {t}" if t else "" for t, _ in pairs]
    prompts = [f"prompt {p}" for _, p in pairs]
    test, family = split_posts(titles, prompts, seed)
    # families by brute force: two posts that share something take the smaller label until nothing changes
    label = list(range(len(pairs)))
    for _ in pairs:
        for i, j in combinations(range(len(pairs)), 2):
            if prompts[i] == prompts[j] or (titles[i] and titles[i] == titles[j]):
                label[i] = label[j] = min(label[i], label[j])
    assert len(set(zip(label, family.tolist(), strict=True))) == len(set(label)) == len(set(family.tolist()))
    assert all(len(set(test[family == f])) == 1 for f in set(family))
    if len(set(label)) > 1:
        smallest = min(Counter(label).values())
        assert 0 < test.sum() <= max(1, round(len(pairs) / 10), smallest) and not test.all()
    else:
        assert not test.any()
    again = split_posts(titles[::-1], prompts[::-1], seed)[0][::-1]
    sizes = set(Counter(label).values())
    if sizes == {1}:  # the order of the source does not matter
        assert (again == test).all()


def test_the_split_is_a_tenth_by_its_seed_and_agrees_between_sample_and_whole():
    titles = [f"title {n}" for n in range(2000)]
    test, _ = split_posts(titles, titles, 42)
    assert test.sum() == 200 and (split_posts(titles, titles, 42)[0] == test).all()
    other = split_posts(titles, titles, 43)[0]
    assert 5 <= (test & other).sum() <= 45  # 20 by chance
    sample = np.random.default_rng(0).permutation(2000)[:500]
    part = split_posts([titles[i] for i in sample], [titles[i] for i in sample], 42)[0]
    assert part.sum() == 50 and (part == test[sample]).mean() > 0.95


# ---- the store ----------------------------------------------------------------------------------------------------


@pytest.fixture
def profile(tmp_path):
    return get_profile("8b", data=str(small_posts(tmp_path / "small.parquet")))


@pytest.fixture
def loads(monkeypatch):
    """The sources that were read, in order."""
    read = []

    def load(source, *args, **kwargs):
        read.append(source)
        return load_writing_prompts(source, *args, **kwargs)

    monkeypatch.setattr(writing_prompts, "load_writing_prompts", load)
    return read


def test_a_second_call_reads_what_the_first_made(profile, tokenizer, tmp_path, loads, capsys):
    folder = tmp_path / "not" / "yet"
    first = prepare(profile, tokenizer, folder)
    said = capsys.readouterr().out
    second = stories_of(profile, tokenizer, folder)
    assert len(loads) == 1 and said == capsys.readouterr().out and "of which train" in said
    pd.testing.assert_frame_equal(first, second)
    direct, report = load_writing_prompts(profile.data, tokenizer, progress=False)
    pd.testing.assert_frame_equal(first, direct)
    names = sorted(path.suffix for path in folder.iterdir())
    assert names == [".json", ".lock", ".parquet"] or names == [".json", ".parquet"]
    assert json.loads(next(folder.glob("*.json")).read_text(encoding="utf-8")) == report
    assert str(tmp_path) not in next(folder.glob("*.json")).read_text(encoding="utf-8")


@pytest.mark.parametrize("change", ["max_length", "prompts", "seed", "file", "template", "tokenizer", "rules"])
def test_another_source_setting_or_tokenizer_is_prepared_anew(profile, tiny, tmp_path, loads, monkeypatch, change):
    _, tokenizer = tiny
    prepare(profile, tokenizer, tmp_path / "out")
    changed = profile
    if change in ("max_length", "prompts", "seed"):
        changed = get_profile("8b", data=profile.data, **{change: 7 if change == "prompts" else 777})
    elif change == "file":
        small_posts(Path(profile.data), posts=13)
    elif change == "template":
        tokenizer.chat_template += " "
    elif change == "tokenizer":
        tokenizer.add_tokens(["tide-wall"])
    else:
        monkeypatch.setattr(writing_prompts, "VERSION", -1)
    prepare(changed, tokenizer, tmp_path / "out")
    assert len(loads) == 2 and len(list((tmp_path / "out").glob("*.parquet"))) == 2
    prepare(changed, tokenizer, tmp_path / "out")
    assert len(loads) == 2


@pytest.mark.parametrize(
    "damage", ["no report", "cut report", "foreign report", "no table", "cut table", "short table"]
)
def test_what_a_kill_or_a_fault_left_behind_is_made_anew(profile, tokenizer, tmp_path, loads, damage):
    whole = prepare(profile, tokenizer, tmp_path / "out")
    table, report = (next((tmp_path / "out").glob(f"*.{kind}")) for kind in ("parquet", "json"))
    table.with_suffix(".part").write_bytes(b"half")
    hurt = report if "report" in damage else table
    if damage.startswith("no"):
        hurt.unlink()
    elif damage.startswith("cut"):
        hurt.write_bytes(hurt.read_bytes()[:-40])
    elif damage.startswith("foreign"):
        hurt.write_text("[1]", encoding="utf-8")
    else:
        pq.write_table(pq.read_table(hurt).slice(1), hurt)
    pd.testing.assert_frame_equal(prepare(profile, tokenizer, tmp_path / "out"), whole)
    assert len(loads) == 2
    pd.testing.assert_frame_equal(prepare(profile, tokenizer, tmp_path / "out"), whole)
    assert len(loads) == 2 and not list((tmp_path / "out").glob("*.part"))


def test_of_two_at_once_one_prepares(profile, tokenizer, tmp_path, loads):
    frames = []
    threads = [
        threading.Thread(target=lambda: frames.append(prepare(profile, tokenizer, tmp_path / "out"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(frames) == 3 and len(loads) == 1
    pd.testing.assert_frame_equal(frames[0], frames[1])


def test_a_folder_that_cannot_be_written_is_said_in_one_sentence(profile, tokenizer, tmp_path):
    (tmp_path / "file").touch()
    assert "cannot be stored" in refusal(prepare, profile, tokenizer, tmp_path / "file" / "out")


def test_only_the_first_process_of_a_launch_prints(profile, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    prepare(profile, tokenizer, tmp_path / "out")
    assert capsys.readouterr().out == ""


def test_other_stories_pass_through(tmp_path):
    pd.testing.assert_frame_equal(stories_of(get_profile("laptop"), None, tmp_path), load_stories())
    own = tmp_path / "own.jsonl"
    own.write_text('{"prompt": "A", "text": "one"}\n', encoding="utf-8")
    assert stories_of(get_profile("laptop", data=str(own)), None, tmp_path)["text"].tolist() == ["one"]
    assert not list(tmp_path.glob("writing_prompts*"))


def test_the_report_is_an_aligned_table_beside_the_papers_counts(loaded, capsys):
    print_report(loaded[1])
    lines = capsys.readouterr().out.splitlines()
    numbers = r"(.+?) +([\d,]+) +([\d,]+)(?: +([\d,]+))?"
    assert re.fullmatch(r"posts.parquet +posts +responses +paper", lines[0])
    table = [re.fullmatch(numbers, line) for line in lines[1:-2]]
    assert {row.end(2) for row in table} == {lines[0].index("posts ", 5) + 5}
    assert {row.end(3) for row in table} == {lines[0].index("responses") + 9}
    assert {row.end(4) for row in table} == {-1, len(lines[0])}
    rows = [(row[1], int(row[2].replace(",", "")), int(row[3].replace(",", "")), row[4]) for row in table]
    report = loaded[1]
    assert rows == [
        ("read", *report["read"], None),
        *((f"- {rule}", *report["removed"][rule], None) for rule in RULES),
        ("left", *report["left"], "467,198"),
        ("  of which train", *report["train"], "421,330"),
        ("  of which test", *report["test"], "45,868"),
    ]
    assert "no target" in lines[-1] and max(map(len, lines)) <= 120
