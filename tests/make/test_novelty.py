"""The record on real outputs: its figures follow from its values, and it holds no text."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from invented_answers import THINGS, write_noveltybench

import novelty
from ddpo_utils.course.noveltybench import (
    COMMIT,
    DIGESTS,
    SOURCES,
    load_answers,
)
from ddpo_utils.deviation import diversity
from ddpo_utils.evaluation.statistics import mean_interval
from ddpo_utils.settings import CourseError, data_dir
from ddpo_utils.storage.files import read_json
from measures import DISTINCT, MEASURES
from novelty_labels import load_classes, load_labels


class CountsOfLetters:
    """An encoder that needs no model: how often each letter occurs."""

    def encode(self, texts):
        letters = "abcdefghijklmnopqrstuvwxyz"
        counts = [[text.lower().count(letter) for letter in letters] + [1] for text in texts]
        return np.array(counts, dtype=np.float32)


@pytest.fixture(scope="module")
def without_models():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(novelty, "load_encoder", lambda name: CountsOfLetters())
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory, without_models):
    folder = write_noveltybench(tmp_path_factory.mktemp("clone"))
    labels = {part: load_labels(folder, part) for part in ("train", "val")}
    return novelty.make_record(load_answers(folder), load_classes(folder), labels, draws=3)


@pytest.fixture(scope="module")
def record():
    return read_json(data_dir() / "results" / "novelty.json")


def check_gaps(record) -> None:
    """Every interval is that of its values, signed so that above 0 people are more diverse."""
    writing = [prompt in record["stories_and_poems"] for prompt in record["prompts"]]
    for length, by_group in record["gaps"].items():
        for group, rows in by_group.items():
            chosen = np.array(writing) if group != "all" else np.ones(len(writing), dtype=bool)
            assert rows.keys() == MEASURES.keys()
            for name, row in rows.items():
                values = record["values"][length][name]
                people = np.array(values["humans"], dtype=float)
                assert tuple(row) == SOURCES[1:]
                for source, found in row.items():
                    gap = MEASURES[name].sign * (people - np.array(values[source], dtype=float))
                    expected = novelty.rounded(mean_interval(gap[chosen]))
                    assert found == pytest.approx(expected, abs=2e-4)


def test_people_are_more_diverse_in_the_invented_answers(made):
    check_gaps(made)
    assert made["stories_and_poems"] == ["curated-0", "curated-2"]
    for row in made["gaps"]["whole"]["all"].values():
        assert row["gpt-4o"][0] > 0
    assert str(made).count("kettle") == 0


def test_lengths_stand_beside_the_gaps(made):
    assert made["median_words"]["stories and poems"]["gpt-4o"] == 10.0
    assert made["median_words"]["stories and poems"]["humans"] == 5.0
    assert made["median_words"]["all"]["humans"] == 5.0


def test_wording_has_no_value_where_an_answer_has_no_word(made):
    for name, measure in MEASURES.items():
        missing = [value is None for value in made["values"]["whole"][name]["humans"]]
        assert missing == [False, False, False, not measure.encoder]
        assert made["gaps"]["whole"]["all"][name]["gpt-4o"][3] == (4 if measure.encoder else 3)


def test_sets_have_one_size(without_models):
    sizes = []

    def size_of(rows):
        sizes.append(len(rows))
        return 0.0

    measures = {"sized": novelty.replace(MEASURES[DISTINCT], score=size_of)}
    novelty.Scorer(THINGS, measures).mean_score("sized", THINGS, draws=5)
    assert sizes == [novelty.SIZE] * 5
    # a mean over pairs is the mean over all sets of four
    pairwise = novelty.Scorer(THINGS, {"pairs": MEASURES["distance, MiniLM"]})
    rows = CountsOfLetters().encode(THINGS)
    assert pairwise.mean_score("pairs", THINGS, draws=1) == pytest.approx(diversity(rows))


def test_prompts_are_ranked_within_one_source():
    classes = pd.DataFrame({source: [1, 2, 3, 4, 6, 5] for source in SOURCES})
    values = {"ROUGE-L": {source: [0.9, 0.8, None, 0.5, 0.4, 0.3] for source in SOURCES}}
    found = novelty.order_of_prompts(values, classes)["ROUGE-L"]
    assert list(found) == list(SOURCES[1:])
    rho, low, high, prompts = found["gpt-4o"]  # larger ROUGE-L = less diverse
    assert (rho, prompts) == (0.9, 5) and low < rho < high


def test_auc_counts_pairs_of_pairs():
    pairs = pd.DataFrame(
        {"prompt_id": list("abcdef"), "alike": [True, True, False, False, False, True]}
    )
    scores = np.array([0.1, 0.5, 0.5, 0.9, 0.2, np.nan])
    # different 0.5, 0.9, 0.2 against alike 0.1, 0.5
    assert novelty.auc(pairs, scores).mean == pytest.approx((1.5 + 2 + 1) / 6)
    assert novelty.auc(pairs, scores).n == 5


def test_a_threshold_stands_beside_always_different():
    alike = [True, False, False, False]
    pairs = pd.DataFrame({"prompt_id": list("abcd"), "alike": alike})
    told = novelty.answers_of_threshold(pairs, np.array([0.9, 0.8, 0.2, 0.7]), 0.7)
    assert told["alike_joined"] == 1 and told["always_different"] == 0.75
    assert told["different_kept_apart"] == pytest.approx(1 / 3, abs=1e-4)
    assert told["accuracy"][0] == 0.5 and told["gain"][0] == -0.25


def test_the_threshold_is_chosen_without_labels_val(tmp_path, without_models, monkeypatch):
    monkeypatch.setattr(novelty, "auc", lambda pairs, scores: novelty.Interval(0, 0, 0, 2))
    folder = write_noveltybench(tmp_path)
    train = load_labels(folder, "train")
    other = train.assign(alike=~train["alike"])
    cosines = []
    for val in (train, other):
        judged = novelty.judge_measures({"train": train, "val": val})
        cosines.append(judged["thresholds"]["of labels-train"]["cosine"])
    assert cosines[0] == cosines[1]


def test_other_files_are_refused(tmp_path, monkeypatch):
    folder = write_noveltybench(tmp_path / "clone")
    command = ["novelty.py", "--smoke", "--folder", str(folder), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(CourseError, match="other files than were recorded"):
        novelty.main()
    assert not (tmp_path / "results").exists()


def test_the_record_follows_from_its_values_and_names_what_made_it(record):
    check_gaps(record)
    assert (len(record["prompts"]), len(record["stories_and_poems"])) == (100, 10)
    assert record["command"] == novelty.COMMAND
    source = record["source"]
    assert (source["commit"], source["files"], source["licence"]) == (COMMIT, DIGESTS, "MIT")
    assert {"versions", "hardware", "code"} <= record.keys()
    assert (record["set_size"], record["draws"]) == (novelty.SIZE, novelty.DRAWS)
    assert record["labels"]["auc"].keys() == set(MEASURES)
    assert record["order_of_prompts"]["whole"].keys() == set(MEASURES)
    for by_part in record["labels"]["thresholds"].values():
        assert (by_part["train"]["accuracy"][3], by_part["val"]["accuracy"][3]) == (1000, 100)
