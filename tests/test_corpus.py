"""Stories in, pairs out: the bundled data, one's own files in every state of repair, and the rules of pairing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpo_utils import CourseError, load_stories, make_pairs
from ddpo_utils.corpus import decisions, development_prompts, is_writing_prompts, load_prompts, to_dataset
from ddpo_utils.profiles import data_dir

ROWS = [
    {"prompt": "A", "text": "one", "score": 3},
    {"prompt": "A", "text": "two 🙂\u2028with a separator", "score": 5},
    {"prompt": "B", "text": 'Élodie said: "no,"\nand left.', "score": 1.5},
]


def jsonl(path: Path, rows: list[object], newline: str = "\n", start: str = "", encoding: str = "utf-8") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes((start + newline.join(lines) + newline).encode(encoding))
    return path


def test_the_bundled_stories_are_those_of_the_data_card():
    stories = load_stories()
    assert len(stories) == 720 and stories["prompt_id"].nunique() == 30
    per_prompt = stories.groupby(["prompt_id", "source"]).size().unstack()
    assert (per_prompt == {"assistant": 6, "assistant_iter": 6, "authors": 12}).all(axis=None)
    test = {f"p{n:02d}" for n in (5, 10, 15, 20, 25, 30)}
    assert set(stories.loc[stories["split"] == "test", "prompt_id"]) == test
    assert set(stories["split"]) == {"train", "test"}
    assert stories["score"].between(1, 10).all()
    assert (stories["score"] == [np.mean(s) for s in stories["judge_scores"]]).all()
    assert stories["text"].str.split().str.len().between(78, 100).all()
    assert stories.loc[stories["source"] == "authors", "writer"].nunique() == 12
    assert {"prompt_id", "prompt", "text", "score", "source", "writer", "split"} <= set(stories)


def test_the_further_prompts_and_the_decisions_keep_the_test_prompts_apart():
    prompts, stories = load_prompts(), load_stories()
    assert len(prompts) == 40 and prompts["prompt_id"].is_unique
    assert not set(prompts["prompt"]) & set(stories["prompt"])
    train = set(stories.loc[stories["split"] == "train", "prompt_id"])
    assert set(development_prompts()) < train
    assert len(development_prompts()) == len(set(development_prompts())) == 5
    assert {"min_words", "reward_bound", "usable_margin"} <= set(decisions())


@pytest.mark.parametrize(
    ("newline", "start", "end"),
    [("\n", "", ""), ("\r\n", "", ""), ("\n", "\ufeff", ""), ("\r\n", "\ufeff", "\r\n \r\n\t\r\n"), ("\n\n", "", "\n")],
    ids=["plain", "windows", "BOM", "all at once", "blank lines"],
)
def test_own_jsonl_is_read_in_every_dialect(tmp_path, newline, start, end):
    path = jsonl(tmp_path / "own.jsonl", ROWS, newline, start)
    path.write_bytes(path.read_bytes() + end.encode())
    frame = load_stories(path)
    assert frame["text"].tolist() == [row["text"] for row in ROWS]
    assert frame["score"].tolist() == [3.0, 5.0, 1.5]
    assert frame["prompt_id"].tolist() == ["A", "A", "B"]  # the prompt itself
    assert (frame["source"] == "own").all() and (frame["split"] == "train").all() and (frame["writer"] == "").all()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["own.csv", "OWN.CSV"])
def test_own_csv_is_read_in_every_dialect(tmp_path, encoding, newline, name):
    pd.DataFrame(ROWS).to_csv(tmp_path / name, index=False, encoding=encoding, lineterminator=newline)
    frame = load_stories(str(tmp_path / name))
    assert frame["text"].tolist() == [row["text"] for row in ROWS]
    assert frame["score"].tolist() == [3.0, 5.0, 1.5]


def test_texts_of_digits_stay_texts(tmp_path):
    (tmp_path / "own.csv").write_text("prompt,text,score\n1984,2001,1\n1984,0042,2\n", encoding="utf-8")
    frame = load_stories(tmp_path / "own.csv")
    assert frame["prompt"].tolist() == ["1984", "1984"] and frame["text"].tolist() == ["2001", "0042"]


def test_own_frame_is_copied_and_keeps_its_columns():
    frame = pd.DataFrame(ROWS, index=[7, 7, 9]).assign(writer="me", source="club", split="test", prompt_id=[2, 2, 1])
    frame[0] = "a column whose name is a number"
    before = frame.copy()
    loaded = load_stories(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert loaded.index.tolist() == [0, 1, 2] and loaded[0].nunique() == 1
    assert loaded["prompt_id"].tolist() == [2, 2, 1] and set(loaded["source"]) == {"club"}


def test_stories_without_scores_are_read_and_refused_for_pairs():
    frame = load_stories(pd.DataFrame(ROWS).drop(columns="score"))
    assert frame["score"].isna().all()
    with pytest.raises(CourseError, match="row 0 has no score"):
        make_pairs(frame)


def refusal(data: object) -> str:
    with pytest.raises(CourseError) as caught:
        load_stories(data)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    assert caught.value.__context__ is None or caught.value.__suppress_context__  # no traceback from below
    return message


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "A"}], "no column 'text'"),
        ([{"text": "one"}], "no column 'prompt'"),
        ([*ROWS, {"prompt": "A"}], "Row 4 of own.jsonl has no text"),
        ([*ROWS, {"text": "three"}], "Row 4 of own.jsonl has no prompt"),
        ([ROWS[0], {"prompt": "A", "text": " \n"}], "Row 2 of own.jsonl has no text"),
        ([{"prompt": "A", "text": 3}], "Row 1 of own.jsonl has no text"),
        ([{"prompt": None, "text": "one"}], "Row 1 of own.jsonl has no prompt"),
        ([ROWS[0], {**ROWS[1], "score": "good"}], "Row 2 of own.jsonl has a score that is no number"),
        ([ROWS[0], {**ROWS[1], "score": [1, 2]}], "Row 2 of own.jsonl has a score that is no number"),
        ([ROWS[0], '{"prompt": "A", "text": "x", "score": Infinity}'], "Row 2 .* score that is no number"),
        ([{"prompt": "A", "text": "x", "judge_scores": "[1, 2]"}], "Row 1 .* score that is no number"),
        ([{"prompt": "A", "text": "x", "prompt_id": "a"}, ROWS[0]], "Row 2 of own.jsonl has no prompt_id"),
        ([{**ROWS[0], "prompt_id": 7}, {**ROWS[2], "prompt_id": 7}], "prompt_id 7 of own.jsonl stands for two"),
        ([ROWS[0], "not JSON"], "Line 2 of .*own.jsonl is not a JSON object"),
        ([ROWS[0], "", '{"prompt": "A", "te'], "Line 3 of .*own.jsonl is not a JSON object"),
        ([ROWS[0], "[1, 2]"], "Line 2 of .*own.jsonl is not a JSON object"),
        ([ROWS[0], "3"], "Line 2 of .*own.jsonl is not a JSON object"),
        (["[", "{}", "]"], "Line 1 of .*own.jsonl is not a JSON object"),
        ([], "own.jsonl holds no story"),
        (["", " "], "own.jsonl holds no story"),
    ],
)  # fmt: skip
def test_a_faulty_row_is_named(tmp_path, rows, message):
    import re

    assert re.search(message, refusal(jsonl(tmp_path / "own.jsonl", rows)))


def test_judge_scores_may_be_missing_in_a_row():
    rows = [{"prompt": "A", "text": t, "judge_scores": s} for t, s in (("a", [1, 2]), ("b", None), ("c", []))]
    with pytest.raises(CourseError, match="Row 3"):
        load_stories(pd.DataFrame(rows))
    assert load_stories(pd.DataFrame(rows[:2]))["score"].tolist()[0] == 1.5


def test_unreadable_files_are_said_in_one_sentence(tmp_path):
    assert "no stories file" in refusal(tmp_path / "none.jsonl")
    assert "no stories file" in refusal(tmp_path)
    assert "UTF-8" in refusal(jsonl(tmp_path / "latin.jsonl", ROWS[2:], encoding="latin-1"))
    (tmp_path / "latin.csv").write_bytes("prompt,text\nA,Élodie\n".encode("latin-1"))
    assert "UTF-8" in refusal(tmp_path / "latin.csv")
    (tmp_path / "ragged.csv").write_text('prompt,text\nA,one\nA,two,three,four\n"A,five\n', encoding="utf-8")
    assert "ParserError" in refusal(tmp_path / "ragged.csv")
    for name, content in (("empty.csv", ""), ("header.csv", "prompt,text\n"), ("empty.jsonl", "")):
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert f"{name} holds no story" in refusal(tmp_path / name)
    assert "the frame holds no story" in refusal(pd.DataFrame())


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        ("euclaise/WritingPrompts_preferences", True), ("posts.parquet", True), ("POSTS.PARQUET", True),
        ("folder", True), ("folder/data/train.parquet", True), ("bundled", False), ("own.jsonl", False),
        ("own.csv", False), ("empty", False), ("absent", False), ("", False), (pd.DataFrame(ROWS), False),
    ],
    ids=str,
)  # fmt: skip
def test_writing_prompts_are_told_from_other_stories(tmp_path, monkeypatch, data, answer):
    (tmp_path / "folder" / "data").mkdir(parents=True)
    (tmp_path / "folder" / "data" / "train.parquet").touch()
    (tmp_path / "empty").mkdir()
    jsonl(tmp_path / "own.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    assert is_writing_prompts(data) is answer
    if isinstance(data, str) and data:
        assert is_writing_prompts(Path(data)) is answer
    if answer:
        assert "read it with stories_of" in refusal(data)


def scored(*scores: float, prompt: str = "A") -> pd.DataFrame:
    return pd.DataFrame([{"prompt": prompt, "text": f"{prompt}{i}", "score": s} for i, s in enumerate(scores)])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    prompts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=4),
    gap=st.sampled_from([0.0, 2.0, 5.0]),
    seed=st.integers(0, 99),
)
def test_the_rules_of_pairing(prompts, gap, seed):
    frame = load_stories(pd.concat([scored(*s, prompt=f"P{i}") for i, s in enumerate(prompts)]))
    if all(len(set(s)) == 1 for s in prompts):
        with pytest.raises(CourseError, match="No preference pair"):
            make_pairs(frame, gap, seed)
        return
    pairs = make_pairs(frame, gap, seed)
    used = pairs["chosen_row"].tolist() + pairs["rejected_row"].tolist()
    assert len(used) == len(set(used))  # each response once
    won, lost = frame.loc[pairs["chosen_row"]], frame.loc[pairs["rejected_row"]]
    assert (won["score"].to_numpy() > lost["score"].to_numpy()).all()  # ties never
    for column in ("prompt", "prompt_id"):
        assert (won[column].to_numpy() == lost[column].to_numpy()).all()
        assert (pairs[column].to_numpy() == won[column].to_numpy()).all()
    assert (pairs["chosen"].to_numpy() == won["text"].to_numpy()).all()
    assert (pairs["rejected"].to_numpy() == lost["text"].to_numpy()).all()
    assert (pairs["gap"].to_numpy() == won["score"].to_numpy() - lost["score"].to_numpy()).all()
    for prompt_id, group in frame.drop(index=used).groupby("prompt_id"):
        assert group["score"].nunique() == 1, f"two responses of {prompt_id} that differ were left over"
    # whoever is in a pair below the wanted gap found no partner at that gap among those
    small = pairs[pairs["gap"] < gap]
    for _, group in small.groupby("prompt_id"):
        scores = frame.loc[[*group["chosen_row"], *group["rejected_row"]], "score"]
        assert scores.max() - scores.min() < gap
    pd.testing.assert_frame_equal(pairs, make_pairs(frame, gap, seed))


def plain_pairs(stories: pd.DataFrame, min_gap: float, seed: int) -> list[tuple[int, int]]:
    """The drawing, prompt by prompt on frames: slow, and what the stored outputs of the notebooks were made with."""
    rng, rows = np.random.default_rng(seed), []
    for _, group in stories.groupby("prompt_id", sort=True):
        votes, free = group["score"].to_numpy(), rng.permutation(len(group)).tolist()
        for gap in [min_gap, 0.0] if min_gap else [0.0]:
            alone = []
            while free:
                one = free.pop()
                partners = [p for p in free if votes[p] != votes[one] and abs(votes[p] - votes[one]) >= gap]
                if partners:
                    other = partners[rng.integers(len(partners))]
                    free.remove(other)
                    rows.append(tuple(group.index[sorted((one, other), key=lambda p: -votes[p])]))
                else:
                    alone.append(one)
            free = alone
    return rows


@pytest.mark.parametrize("gap", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("seed", [42, 7])
def test_the_bundled_pairs_are_those_of_the_plain_loop(gap, seed):
    stories = load_stories()
    for part in (stories, stories[stories["source"] == "authors"], stories.sample(frac=0.7, random_state=seed)):
        pairs = make_pairs(part, gap, seed)
        assert list(zip(pairs["chosen_row"], pairs["rejected_row"], strict=True)) == plain_pairs(part, gap, seed)


def test_a_wanted_gap_is_preferred_and_small_gaps_fill_up():
    frame = load_stories(scored(0, 1, 5, 6))
    for seed in range(20):
        assert (make_pairs(frame, min_gap=5, seed=seed)["gap"] >= 5).any()
        assert len(make_pairs(frame, min_gap=5, seed=seed)) == 2
    assert min(make_pairs(frame, seed=seed)["gap"].min() for seed in range(20)) == 1


def test_pairs_depend_on_the_seed_alone():
    stories = load_stories()
    train = stories[(stories["split"] == "train") & (stories["source"] == "authors")]
    first = make_pairs(train)
    pd.testing.assert_frame_equal(first, make_pairs(train.copy(), seed=42))
    assert not first.equals(make_pairs(train, seed=43))
    assert 24 * 5 <= len(first) <= 24 * 6
    assert set(first["chosen_row"]) | set(first["rejected_row"]) <= set(train.index)


def test_a_prompt_with_one_response_is_passed_over():
    frame = load_stories(pd.concat([scored(1, prompt="lonely"), scored(1, 2, prompt="B")]))
    assert make_pairs(frame)["prompt"].tolist() == ["B"]
    with pytest.raises(CourseError, match="at least one prompt needs two responses"):
        make_pairs(load_stories(scored(1, prompt="lonely")))


def test_a_repeated_index_and_a_missing_score_are_refused():
    frame = load_stories(scored(1, 2, 3))
    with pytest.raises(CourseError, match="index repeats"):
        make_pairs(pd.concat([frame, frame]))
    frame.loc[1, "score"] = np.nan
    with pytest.raises(CourseError, match="row 1 has no score"):
        make_pairs(frame)


def test_pairs_become_a_conversational_dataset():
    pairs = make_pairs(load_stories(scored(1, 2, 3, 4)))
    data = to_dataset(pairs, pd.Series([0.5, 1.5], index=[9, 8]))
    assert data["weight"][:] == [0.5, 1.5]
    for row, (_, pair) in zip(data, pairs.iterrows(), strict=True):
        assert row["prompt"] == [{"role": "user", "content": pair["prompt"]}]
        assert row["chosen"] == [{"role": "assistant", "content": pair["chosen"]}]
        assert row["rejected"] == [{"role": "assistant", "content": pair["rejected"]}]
    assert to_dataset(pairs)["weight"][:] == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"2 pairs.*3 weights"):
        to_dataset(pairs, [1.0, 1.0, 1.0])


def test_the_bundled_files_are_where_the_package_looks():
    assert {"stories.jsonl", "test_prompts.jsonl", "authors.json", "README.md"} <= {
        p.name for p in data_dir().iterdir()
    }
    assert len(json.loads((data_dir() / "authors.json").read_text(encoding="utf-8"))) == 12
