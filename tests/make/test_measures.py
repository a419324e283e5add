"""The contrasts are what they are called; recommendations follow from answers by the rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import measures
from contrasts import CONTRASTS, SIZE, build_contrasts, choose_threshold, load_contrasts
from ddpo_utils.corpus.stories import load_stories
from ddpo_utils.corpus.text import words
from ddpo_utils.course.recorded import trust_table
from ddpo_utils.evaluation.statistics import Interval
from ddpo_utils.settings import data_dir
from ddpo_utils.storage.files import read_json
from measures import MEASURES, measure_row, measure_sets, passed_tests, recommend, separation


@pytest.fixture(scope="module")
def sets():
    return build_contrasts(draws=3, seed=1)


@pytest.fixture(scope="module")
def known():
    """The bundled stories by their text."""
    return load_stories().set_index("text")


@pytest.fixture(scope="module")
def record():
    return read_json(data_dir() / "results" / "measures.json")


def test_all_sets_are_fours_of_training_prompts(sets, known):
    train = set(known.loc[known["split"] == "train", "prompt_id"])
    retold = set(load_contrasts()["prompt_id"])
    assert retold < train
    assert sets.keys() == {"authors", "assistant", *CONTRASTS}
    for name, by_prompt in sets.items():
        written = name in ("paraphrase", "same_plot")
        number = {"paraphrase": 1, "same_plot": 1, "assistant": 15}.get(name, 3)
        assert by_prompt.keys() == (retold if written else train)
        for of_prompt in by_prompt.values():
            assert [len(four) for four in of_prompt] == [SIZE] * number
    assert build_contrasts(draws=3, seed=1) == sets != build_contrasts(draws=3, seed=2)


def test_each_contrast_changes_what_it_says(sets, known):
    corpus = {word for text in known.index[known["split"] == "train"] for word in words(text)}
    for prompt, of_prompt in sets["authors"].items():
        for i, four in enumerate(of_prompt):
            rows = known.loc[four]
            assert (rows["prompt_id"] == prompt).all()
            assert (rows["source"] == "authors").all()
            assert rows["writer"].nunique() == SIZE
            changed = {name: sets[name][prompt][i] for name in CONTRASTS[:6]}
            for name, cut in (("length_25", 25), ("length_50", 50)):
                assert [words(text) for text in changed[name]] == [words(t)[:cut] for t in four]
            assert changed["gibberish_1"] == [changed["gibberish_4"][0], *four[1:]]
            for text, story in zip(changed["gibberish_4"], four, strict=True):
                assert text not in known.index
                assert len(words(text)) == len(words(story))
                assert set(words(text)) <= corpus
            off_topic = known.loc[changed["off_topic_1"][0]]
            assert changed["off_topic_1"][1:] == four[1:]
            assert off_topic["prompt_id"] != prompt
            assert off_topic["writer"] == rows["writer"].iloc[0]
            voice = known.loc[changed["off_topic_4"]]
            assert voice["writer"].nunique() == 1
            assert voice["prompt_id"].nunique() == SIZE
            assert voice["prompt_id"].iloc[0] == prompt
    for four in sets["assistant"]["p01"]:
        assert set(known.loc[four, "source"]) == {"assistant"}
        assert len(set(four)) == SIZE


@pytest.mark.parametrize("name", [n for n, m in MEASURES.items() if m.encoder != "minilm"])
def test_larger_is_more_diverse_by_every_measure(name):
    texts = load_stories().query("prompt_id == 'p02' and source == 'authors'")["text"]
    varied = texts.head(SIZE).tolist()
    values = measure_sets(
        MEASURES[name], {"same": {"p": [varied[:1] * SIZE]}, "varied": {"p": [varied]}}
    )
    assert values["same"]["p"][0] < values["varied"]["p"][0] <= MEASURES[name].largest + 1e-9


def test_separation_is_auc_and_paired_difference():
    rng = np.random.default_rng(3)
    authors = [rng.normal(1, 1, 4).round(1) for _ in range(9)]
    assistant = [rng.normal(0, 1, 3).round(1) for _ in range(9)]
    wins = [float(x > y) + (x == y) / 2 for a in authors for b in assistant for x in a for y in b]
    gaps = np.array([a.mean() - b.mean() for a, b in zip(authors, assistant, strict=True)])
    auc, paired = separation(authors, assistant)
    assert auc.mean == pytest.approx(np.mean(wins))
    assert auc.low < auc.mean < auc.high
    assert paired.mean == pytest.approx(gaps.mean() / gaps.std(ddof=1))
    apart, _ = separation([a + 99 for a in authors], assistant)
    assert (apart.low, apart.mean, apart.high) == (pytest.approx(0.025 ** (1 / 9)), 1, 1)


def test_threshold_is_the_best_cut():
    apart = np.array([0.1, 0.5, 0.6])
    assert choose_threshold(np.array([0.8, 0.9, 0.7]), apart) == pytest.approx(0.65)
    # one alike pair is low: better to lose it than to join five that are apart
    alike = np.array([0.05, 0.9, 0.8, 0.85])
    assert choose_threshold(alike, np.linspace(0.1, 0.6, 6)) == pytest.approx(0.7)


CERTAIN = Interval(0.95, 0.9, 1.0, 24)
WEAK = Interval(0.8, 0.74, 0.9, 24)
RIGHT = dict.fromkeys(CONTRASTS, (-0.1, 0.1)) | {
    "paraphrase": (-1.2, -0.9),
    "same_plot": (-1.2, -0.9),
}
ONE_VOICE = {"off_topic_4": (-1.1, -0.8)}
BESIDE = "yes, beside the share of usable stories"
NO_ROOM = (
    "yes, at a common length, beside the share of usable stories, says nothing above the authors"
)


@pytest.mark.parametrize(
    ("kind", "auc", "changed", "room", "failed", "says"),
    [
        ("matter", CERTAIN, {}, np.inf, [], "yes"),
        ("matter", WEAK, {}, 9, ["separates"], "no: fails separates"),
        ("matter", CERTAIN, {"paraphrase": (-1, -0.7)}, 9, ["sameness"], "no: fails sameness"),
        ("matter", CERTAIN, {"same_plot": (-1, 0.3)}, 9, ["plots"], "yes, not for plots"),
        ("manner", CERTAIN, ONE_VOICE | {"same_plot": (-1, 0.3)}, 9, [], "yes"),
        ("manner", CERTAIN, {}, 9, ["voices"], "yes, not for voices across prompts"),
        ("wording", CERTAIN, {"length_25": (-0.3, 0)}, 9, ["length"], "yes, at a common length"),
        ("wording", CERTAIN, {"length_50": (0, 0.3)}, 9, ["length"], "yes, at a common length"),
        ("wording", CERTAIN, {"gibberish_4": (0, 0.3)}, 9, ["gibberish"], BESIDE),
        ("matter", CERTAIN, {"off_topic_1": (0, 0.3)}, 9, ["off topic"], BESIDE),
        ("wording", CERTAIN, {"gibberish_1": (-9, 0.2)}, 9, [], "yes"),
        ("wording", CERTAIN, {}, 0.2, ["length", "gibberish", "off topic"], NO_ROOM),
    ],
)
def test_rule(kind, auc, changed, room, failed, says):
    bounds = RIGHT | changed
    answers = {name: Interval(sum(b) / 2, *b, 24) for name, b in bounds.items()}
    tests = passed_tests(kind, auc, answers, room)
    assert [name for name, passed in tests.items() if not passed] == failed
    assert recommend(tests, room) == says
    assert ("plots" in tests) == (kind == "matter")
    assert ("voices" in tests) == (kind == "manner")


def test_recorded_recommendations_follow_from_recorded_answers(record):
    assert record["command"] == measures.COMMAND
    assert {"versions", "hardware"} <= record.keys()
    assert (record["tolerance"], record["least_auc"]) == (measures.TOLERANCE, measures.LEAST_AUC)
    assert record["measures"].keys() == MEASURES.keys()
    for row in record["measures"].values():
        answers = {name: Interval(*row[name]) for name in ("auc", *CONTRASTS)}
        room = np.inf if row["room"] is None else row["room"]
        assert passed_tests(row["kind"], answers["auc"], answers, room) == row["tests"]
        assert recommend(row["tests"], room) == row["recommendation"]
    threshold = record["threshold"]
    assert not set(threshold["chosen_on"]) & set(threshold["tested_on"])
    answered = record["measures"][measures.DISTINCT]["paraphrase"]
    assert answered[3] == len(threshold["tested_on"])


@pytest.mark.parametrize("name", ["ROUGE-L", "distance, Delta"])
def test_recorded_answers_are_those_of_the_code(name, record):
    row = measure_row(MEASURES[name], build_contrasts(measures.DRAWS, measures.SEED))
    recorded = record["measures"][name]
    assert row.keys() == recorded.keys()
    for key in ("authors", "assistant", "auc", "paired", *CONTRASTS):
        assert row[key] == pytest.approx(recorded[key], abs=2e-3), key
    assert row["tests"] == recorded["tests"]


def test_the_table_is_sorted_by_the_rule(record):
    table = trust_table()
    assert set(table.index) == set(MEASURES)
    assert list(dict.fromkeys(table["kind"])) == ["semantic", "style", "wording"]
    for _, rows in table.groupby("kind", sort=False):
        refused = rows["recommendation"].str.startswith("no").tolist()
        assert refused == sorted(refused)
        kept = rows[~np.array(refused)]
        pairs = zip(kept["failed"], kept["auc"], strict=True)
        order = [(len(failed.split(", ")), -auc.low) for failed, auc in pairs]
        assert order == sorted(order)
    assert table["auc"].iloc[0] == Interval(*record["measures"][table.index[0]]["auc"])


def test_a_small_record_is_whole_and_names_what_made_it(tmp_path, monkeypatch):
    threshold = {"cosine": 0.5, "chosen_on": [], "tested_on": []}
    monkeypatch.setattr(measures, "distinct_threshold", lambda sets: threshold)
    few = {name: MEASURES[name] for name in ("distance, Delta", "compression ratio")}
    measures.record_measures(tmp_path, draws=1, measures=few)
    record = read_json(tmp_path / "results" / "measures.json")
    assert record["measures"].keys() == few.keys()
    assert record["draws"] == 1
    assert "rapidfuzz" in record["versions"]
    assert str(tmp_path) not in str(record)


def test_the_reference_s_table_is_the_recorded_one() -> None:
    page = Path(__file__).resolve().parents[2] / "notebooks" / "REFERENCE.md"
    reference = page.read_text(encoding="utf-8")
    real = read_json(data_dir() / "results" / "novelty.json")

    def text(interval: list[float]) -> str:
        mean, low, high, _ = interval
        return f"{mean:.2f} [{low:.2f}, {high:.2f}]".replace("-0.00 ", "0.00 ")

    for name, row in trust_table().iterrows():
        auc = row["auc"]
        judged = real["labels"]["auc"][name]["whole"]
        cells = [name, row["kind"], f"{auc.mean:.2f} [{auc.low:.2f}, {auc.high:.2f}]"]
        cells.append(f"{text(judged['train'])}, {text(judged['val'])}")
        for contrast in ("length_25", "gibberish_4", "paraphrase", "same_plot"):
            cells.append(f"{row[contrast].mean:+.1f}")
        assert f"| {' | '.join(cells)} | {row['recommendation']} |" in reference
    old, new = real["labels"]["thresholds"].values()
    figures = [old["train"]["accuracy"], new["val"]["accuracy"], new["train"]["gain"]]
    for source in ("gpt-4o", "gpt-4o-in-context"):
        for name in ("distance, MiniLM", "ROUGE-L"):
            figures.append(real["order_of_prompts"]["whole"][name][source])
    assert all(text(figure) in reference for figure in figures)
