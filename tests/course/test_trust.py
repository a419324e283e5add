"""The contrasts are what they are called, and the table of trust follows from values by its rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ddpo_utils import CourseError, load_stories
from ddpo_utils.corpus.text import words
from ddpo_utils.course import measures as trust
from ddpo_utils.course.contrasts import (
    CONTRASTS,
    SIZE,
    build_contrasts,
    choose_threshold,
    load_contrasts,
)
from ddpo_utils.course.measures import (
    MEASURES,
    judge,
    load_measures,
    measure_sets,
    recommend,
    separation,
    share,
    trust_table,
)
from ddpo_utils.evaluation.statistics import Interval


@pytest.fixture(scope="module")
def sets():
    return build_contrasts(draws=3, seed=1)


@pytest.fixture(scope="module")
def known():
    """Where each bundled story comes from."""
    return load_stories().set_index("text")


def test_all_sets_are_fours_of_training_prompts(sets, known):
    train = set(known.loc[known["split"] == "train", "prompt_id"])
    assert sets.keys() == {"authors", "assistant", *CONTRASTS}
    for name, by_prompt in sets.items():
        written = name in ("paraphrase", "same_plot")
        assert by_prompt.keys() == (set(load_contrasts()["prompt_id"]) if written else train)
        assert {len(four) for some in by_prompt.values() for four in some} == {SIZE}
        assert {len(some) for some in by_prompt.values()} == {
            1 if written else 15 if name == "assistant" else 3
        }
    assert set(load_contrasts()["prompt_id"]) < train
    assert build_contrasts(draws=3, seed=1) == sets != build_contrasts(draws=3, seed=2)


def test_each_contrast_changes_what_it_says(sets, known):
    corpus = {word for text in known.index[known["split"] == "train"] for word in words(text)}
    for prompt, some in sets["authors"].items():
        for i, own in enumerate(some):
            rows = known.loc[own]
            assert (rows["prompt_id"] == prompt).all() and (rows["source"] == "authors").all()
            assert rows["writer"].nunique() == SIZE
            at = {name: sets[name][prompt][i] for name in list(CONTRASTS)[:6]}
            for name, cut in (("length_25", 25), ("length_50", 50)):
                assert [words(text) for text in at[name]] == [words(text)[:cut] for text in own]
            assert at["gibberish_1"][1:] == own[1:] and at["gibberish_1"][0] == at["gibberish_4"][0]
            for text, story in zip(at["gibberish_4"], own, strict=True):
                assert text not in known.index and len(words(text)) == len(words(story))
                assert set(words(text)) <= corpus
            strange = known.loc[at["off_topic_1"][0]]
            assert at["off_topic_1"][1:] == own[1:]
            assert strange["prompt_id"] != prompt and strange["writer"] == rows["writer"].iloc[0]
            far = known.loc[at["off_topic_4"]]
            assert far["writer"].nunique() == 1 and far["prompt_id"].nunique() == SIZE
            assert far["prompt_id"].iloc[0] == prompt
    for four in sets["assistant"]["p01"]:
        assert set(known.loc[four, "source"]) == {"assistant"} and len(set(four)) == SIZE


def test_written_contrasts_are_four_texts_of_a_training_author(sets):
    written, stories = load_contrasts(), load_stories()
    stories["id"] = stories["prompt_id"] + "-" + stories["source"] + "-" + stories["writer"]
    origin = stories.set_index("id").loc[written["of"]]
    assert (origin["prompt_id"].to_numpy() == written["prompt_id"]).all() and (
        origin["split"] == "train"
    ).all()
    assert (
        written.groupby(["kind", "prompt_id"])["n"].apply(sorted).map(str) == "[1, 2, 3, 4]"
    ).all()
    assert written["text"].is_unique and not written["text"].isin(stories["text"]).any()
    for kind in ("paraphrase", "same_plot"):
        texts = written[(written["kind"] == kind) & (written["prompt_id"] == "p07")].sort_values(
            "n"
        )["text"]
        assert sets[kind]["p07"] == [texts.tolist()]


def test_missing_contrasts_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("ddpo_utils.course.contrasts.data_dir", lambda: tmp_path)
    with pytest.raises(CourseError, match=r"contrasts\.jsonl is missing"):
        load_contrasts()


@pytest.mark.parametrize(
    "name", [name for name, measure in MEASURES.items() if measure.encoder != "minilm"]
)
def test_larger_is_more_diverse_by_every_measure(name):
    stories = load_stories().query("source == 'authors' and prompt_id == 'p01'")["text"].tolist()
    texts = {
        "same": [stories[0]] * SIZE,
        "two": [stories[0]] * 3 + stories[1:2],
        "four": stories[:SIZE],
    }
    sets = {key: {"p01": [four]} for key, four in texts.items()}
    values = {k: v["p01"][0] for k, v in measure_sets(MEASURES[name], sets).items()}
    assert values["same"] < values["two"] < values["four"] <= MEASURES[name].most


def test_separation_by_hand():
    rng = np.random.default_rng(0)
    authors, assistant = list(rng.normal(1, 1, (9, 4))), list(rng.normal(0, 1, (9, 3)))
    assistant[0][0] = authors[0][0]  # a tie counts half
    wins = [(x > y) + (x == y) / 2 for a in authors for b in assistant for x in a for y in b]
    gaps = np.array([a.mean() - b.mean() for a, b in zip(authors, assistant, strict=True)])
    auc, paired = separation(authors, assistant)
    assert auc.mean == pytest.approx(np.mean(wins)) and auc.low < auc.mean < auc.high and auc.n == 9
    assert paired.mean == pytest.approx(gaps.mean() / gaps.std(ddof=1))
    apart, _ = separation([a + 99 for a in authors], assistant)
    assert (apart.low, apart.mean, apart.high) == (1, 1, 1)


def test_share_of_the_gap():
    rng = np.random.default_rng(0)
    authors, assistant = rng.normal(3, 0.1, 30), rng.normal(1, 0.1, 30)
    assert (
        share(authors, authors, assistant).mean == 0
        and share(assistant, authors, assistant).mean == -1
    )
    half = share(authors + 1 + rng.normal(0, 0.3, 30), authors, assistant)
    assert half.mean == pytest.approx(0.5, abs=0.1) and half.low < 0.5 < half.high and half.n == 30


def test_threshold_is_the_best_cut():
    assert choose_threshold(np.array([0.8, 0.9, 0.7]), np.array([0.1, 0.5, 0.6])) == pytest.approx(
        0.65
    )
    # one alike pair lies low: better to lose it than to join five that are apart
    assert choose_threshold(
        np.array([0.05, 0.9, 0.8, 0.85]), np.linspace(0.1, 0.6, 6)
    ) == pytest.approx(0.7)


def answers(**changed: tuple[float, float]) -> dict[str, Interval]:
    """Contrasts' intervals of a measure that passes every test, but for those given as (low, high)."""
    right = dict.fromkeys(CONTRASTS, (-0.1, 0.1)) | dict.fromkeys(
        ("paraphrase", "same_plot"), (-1.2, -0.9)
    )
    return {
        name: Interval((low + high) / 2, low, high, 24)
        for name, (low, high) in (right | changed).items()
    }


CERTAIN = Interval(0.95, 0.9, 1.0, 24)
ONE_VOICE = {"off_topic_4": (-1.1, -0.8)}


@pytest.mark.parametrize(
    ("kind", "auc", "changed", "room", "failed", "says"),
    [
        ("matter", CERTAIN, {}, np.inf, [], "yes"),
        ("matter", Interval(0.8, 0.74, 0.9, 24), {}, 9, ["separates"], "no: fails separates"),
        ("matter", CERTAIN, {"paraphrase": (-1, -0.7)}, 9, ["sameness"], "no: fails sameness"),
        (
            "manner",
            CERTAIN,
            ONE_VOICE | {"paraphrase": (-1, 0)},
            9,
            ["sameness"],
            "no: fails sameness",
        ),
        ("matter", CERTAIN, {"same_plot": (-1, 0.3)}, 9, ["plots"], "yes, not for plots"),
        ("manner", CERTAIN, ONE_VOICE | {"same_plot": (-1, 0.3)}, 9, [], "yes"),
        ("manner", CERTAIN, {}, 9, ["voices"], "yes, not for voices across prompts"),
        ("wording", CERTAIN, {"length_25": (-0.3, 0)}, 9, ["length"], "yes, at a common length"),
        ("wording", CERTAIN, {"length_50": (0, 0.3)}, 9, ["length"], "yes, at a common length"),
        (
            "wording",
            CERTAIN,
            {"gibberish_4": (0, 0.3)},
            9,
            ["gibberish"],
            "yes, beside the share of usable stories",
        ),
        (
            "matter",
            CERTAIN,
            {"off_topic_1": (0, 0.3)},
            9,
            ["off topic"],
            "yes, beside the share of usable stories",
        ),
        ("wording", CERTAIN, {"gibberish_1": (-9, 0.2)}, 9, [], "yes"),
        (
            "wording",
            CERTAIN,
            {},
            0.2,
            ["length", "gibberish", "off topic"],
            "yes, at a common length, beside the share of usable stories, says nothing above the authors",
        ),
    ],
)
def test_rule(kind, auc, changed, room, failed, says):
    tests = judge(kind, auc, answers(**changed), room)
    assert [name for name, passed in tests.items() if not passed] == failed
    assert recommend(tests, room) == says
    assert ("plots" in tests) == (kind == "matter") and ("voices" in tests) == (kind == "manner")


def test_recorded_recommendations_follow_from_recorded_answers():
    record = load_measures()
    assert (
        record["command"] == "python -m ddpo_utils record --measures"
        and {"versions", "hardware"} <= record.keys()
    )
    assert (record["tolerance"], record["least_auc"]) == (trust.TOLERANCE, trust.LEAST_AUC)
    assert record["measures"].keys() == MEASURES.keys()
    for row in record["measures"].values():
        read = {name: Interval(*row[name]) for name in ("auc", *CONTRASTS)}
        room = np.inf if row["room"] is None else row["room"]
        assert judge(row["kind"], read["auc"], read, room) == row["tests"]
        assert recommend(row["tests"], room) == row["recommendation"]
    threshold = record["threshold"]
    assert not set(threshold["chosen_on"]) & set(threshold["tested_on"])
    assert record["measures"][trust.DISTINCT]["paraphrase"][3] == len(threshold["tested_on"])


@pytest.mark.parametrize("name", ["ROUGE-L", "distance, Delta"])
def test_recorded_answers_are_those_of_the_code(name):
    row = trust._row(MEASURES[name], build_contrasts(trust.DRAWS, trust.SEED), ())
    recorded = load_measures()["measures"][name]
    assert row.keys() == recorded.keys()
    for key, value in recorded.items():
        expected = (
            pytest.approx(value, abs=2e-3)
            if key in ("authors", "auc", "paired", *CONTRASTS)
            else row[key]
        )
        assert row[key] == expected, key


def test_table_is_sorted_by_the_rule_and_needs_a_record(monkeypatch, tmp_path):
    table = trust_table()
    assert set(table.index) == set(MEASURES)
    assert list(dict.fromkeys(table["kind"])) == ["matter", "manner", "wording"]
    for _, rows in table.groupby("kind", sort=False):
        refused = rows["recommendation"].str.startswith("no").tolist()
        assert refused == sorted(refused)
        kept = rows[~np.array(refused)]
        order = [
            (len(f.split(", ")), -a.low) for f, a in zip(kept["failed"], kept["auc"], strict=True)
        ]
        assert order == sorted(order)
    assert str(table["auc"].iloc[0]) == str(
        Interval(*load_measures()["measures"][table.index[0]]["auc"])
    )
    monkeypatch.setattr(trust, "data_dir", lambda: tmp_path)
    with pytest.raises(CourseError, match="record --measures"):
        trust_table()


def test_record_is_whole_and_names_what_made_it(monkeypatch, tmp_path):
    few = {name: MEASURES[name] for name in ("distance, Delta", "compression ratio")}
    monkeypatch.setattr(trust, "MEASURES", few)
    monkeypatch.setattr(trust, "DRAWS", 2)
    monkeypatch.setattr(trust, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(
        trust, "distinct_threshold", lambda sets: {"cosine": 0.5, "chosen_on": [], "tested_on": []}
    )
    trust.record_measures()
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["measures.json"]
    record = json.loads((tmp_path / "results" / "measures.json").read_text())
    assert record["measures"].keys() == few.keys() and record["draws"] == 2
    assert str(tmp_path) not in json.dumps(record) and "rapidfuzz" in record["versions"]
    assert set(trust_table().index) == set(few)


def test_the_readme_s_table_is_the_recorded_one() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    for name, row in trust_table().iterrows():
        auc, shares = (
            row["auc"],
            [row[c].mean for c in ("length_25", "gibberish_4", "paraphrase", "same_plot")],
        )
        cells = [
            name,
            row["kind"],
            f"{auc.mean:.2f} [{auc.low:.2f}, {auc.high:.2f}]",
            *(f"{s:+.1f}" for s in shares),
        ]
        assert f"| {' | '.join(cells)} | {row['recommendation']} |" in readme
