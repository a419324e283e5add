"""The evaluation's figures, recomputed one by one, its verdict and its table."""

from __future__ import annotations

import csv
import json
import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from evaluated import samples_of

from ddpo_utils import diversity, load_encoder, load_stories
from ddpo_utils.corpus.stories import decisions, load_prompts
from ddpo_utils.corpus.text import first_words
from ddpo_utils.evaluation.evaluate import evaluate, evaluation_prompts, find_adapters
from ddpo_utils.evaluation.report import show_table
from ddpo_utils.evaluation.results import FAULTS, MEASURES, ROWS, _differences
from ddpo_utils.evaluation.statistics import difference, mean_interval, verdict
from ddpo_utils.evaluation.usability import check_stories
from ddpo_utils.models.sampling import read_samples

pytest_plugins = ["evaluation_fixtures"]


# -- the rows ---------------------------------------------------------------------------------------------------


def test_divpo_and_orpo_s_arms_are_rows_where_they_were_trained(adapters, tmp_path):
    places = find_adapters(adapters)
    assert list(places) == ["start", "sft", "dpo", "shuffled", "ddpo-sem", "ddpo-sty", "ddpo"]
    more = ["divpo", "divpo-sem", "divpo-sty", "orpo", "dorpo-sem", "dorpo-sty", "dorpo"]
    for arm in more:
        (tmp_path / arm).mkdir()
    assert list(find_adapters(tmp_path)) == [*places, *more]
    assert find_adapters(tmp_path)["dorpo-sty"] == tmp_path / "dorpo-sty"
    labels = [
        "DivPO-both",
        "DivPO-sem",
        "DivPO-sty",
        "ORPO",
        "DORPO-sem",
        "DORPO-sty",
        "DORPO-both",
    ]
    assert [ROWS[arm] for arm in more] == labels


def test_each_row_is_set_against_what_it_differs_from_in_one_thing():
    def table(shift: float) -> pd.DataFrame:
        return pd.DataFrame({"semantic": np.arange(4.0) ** 2 + shift}, index=list("abcd"))

    arms = ["gold", "dpo", "ddpo", "ddpo-sem", "divpo", "divpo-sem", "orpo", "dorpo", "dorpo-sty"]
    gaps = _differences({arm: table(i) for i, arm in enumerate(arms)})
    assert list(gaps) == [
        "ddpo - gold",
        "ddpo - dpo",
        "ddpo - divpo",
        "ddpo-sem - gold",
        "ddpo-sem - dpo",
        "ddpo-sem - divpo-sem",
        "dorpo - gold",
        "dorpo - orpo",
        "dorpo-sty - gold",
        "dorpo-sty - orpo",
    ]
    assert (
        gaps["dorpo-sty - orpo"]["semantic"]["mean"] == 2
        and gaps["ddpo - divpo"]["semantic"]["mean"] == -2
    )


# -- the table ---------------------------------------------------------------------------------------------------


def test_rows_stand_in_the_paper_s_order_and_a_missing_adapter_is_said(
    run, profile, adapters, stories, copy, capsys
):
    results, _ = run
    assert list(results["rows"]) == ["gold", "start", "sft", "dpo", "shuffled", "ddpo-sem", "ddpo"]
    assert [row["label"] for row in results["rows"].values()][-2:] == ["DDPO-sem", "DDPO-both"]
    assert "Left out, without an adapter: DDPO-sty." in results["notes"]
    evaluate(profile, find_adapters(adapters), copy, stories)
    assert "left out, without an adapter: DDPO-sty\n" in capsys.readouterr().out


def test_figures_are_means_over_prompts_of_what_the_encoders_say(run, profile):
    results, folder = run
    frame = read_samples(samples_of(folder, "ddpo"))
    for name, encoder in {
        "semantic": "minilm",
        "style": "stylometric",
        "semantic, 2nd": "wordllama",
        "style, 2nd": "delta",
    }.items():
        for column, texts in (
            (name, frame["text"]),
            (f"{name} (25 words)", frame["text"].map(first_words)),
        ):
            values = diversity(
                load_encoder(encoder).encode(texts.tolist()), frame["prompt_id"].to_numpy()
            )
            assert results["by_prompt"]["ddpo"][column] == pytest.approx(values.tolist(), abs=1e-4)
            got, expected = results["rows"]["ddpo"]["means"][column], mean_interval(values)
            assert (got["mean"], got["low"], got["high"], got["n"]) == (
                pytest.approx(expected.mean, abs=1e-4),
                pytest.approx(expected.low, abs=1e-4),
                pytest.approx(expected.high, abs=1e-4),
                5,
            )
    assert results["by_prompt"]["ddpo"]["prompt_id"] == sorted(set(frame["prompt_id"]))
    assert (
        results["by_prompt"]["ddpo"]["tokens"]
        == frame.groupby("prompt_id")["tokens"].mean().round(4).tolist()
    )
    assert (
        results["by_prompt"]["ddpo"]["cut"]
        == (~frame["finished"]).groupby(frame["prompt_id"]).mean().round(4).tolist()
    )


def test_the_intervals_of_shares_stay_within_0_and_1_and_never_lose_their_width(run):
    results, _ = run
    for row, entry in results["rows"].items():
        for name in ("usable", *FAULTS):
            got, values = (
                entry["means"][name],
                np.array(results["by_prompt"][row][name], dtype=float),
            )
            assert 0 <= got["low"] <= got["mean"] <= got["high"] <= 1, (row, name)
            assert got["high"] - got["low"] > 0.05, (
                row,
                name,
            )  # a few stories cannot say more, also if all are alike
            if row != "gold":  # every prompt has as many stories
                assert got["mean"] == pytest.approx(values.mean(), abs=1e-4)
    alike = [
        entry["means"][n]
        for entry in results["rows"].values()
        for n in FAULTS
        if not entry["means"][n]["mean"]
    ]
    assert alike and all(got["low"] == 0 for got in alike)  # some fault occurs in no story of a row


def test_differences_are_paired_by_prompt_against_gold_dpo_and_a_row_s_own_shuffled_weights(run):
    results, _ = run
    assert list(results["differences"]) == [
        "ddpo-sem - gold",
        "ddpo-sem - dpo",
        "ddpo - gold",
        "ddpo - dpo",
        "ddpo - shuffled",
    ]
    by = {
        row: pd.DataFrame(table).set_index("prompt_id")
        for row, table in results["by_prompt"].items()
    }
    for control in ("shuffled", "gold"):  # gold lacks one of the prompts
        both = by["ddpo"].loc[by[control].index], by[control]
        for name in ("semantic", "style, 2nd", "usable", "words"):
            expected = difference(both[0][name], both[1][name])
            got = results["differences"][f"ddpo - {control}"][name]
            assert (got["mean"], got["low"]) == pytest.approx(
                (expected.mean, expected.low), abs=2e-4
            )
            assert got["n"] == len(both[1]) == (4 if control == "gold" else 5)
    assert "no difference is credited to deviation: DDPO-sem." in " ".join(results["notes"])
    assert "Of 20 differences in diversity one in twenty" in " ".join(results["notes"])


def test_the_verdict_is_the_course_s_rule_with_the_nearest_dpo_as_control(
    run, profile, adapters, stories, copy
):
    results, _ = run
    assert results["verdicts"]["control"] == "dpo" and list(
        results["verdicts"]["measures"]
    ) == list(MEASURES)
    models = find_adapters(adapters) | {"dpo-matched": adapters / "ddpo-sem"}
    matched = evaluate(profile, models, copy, stories)
    by, margin = matched["by_prompt"], decisions()["usable_margin"]
    for got, control in ((results, "dpo"), (matched, "dpo-matched")):
        for name in MEASURES:
            sets = [
                {"ddpo": by["ddpo"][m], "shuffled": by["shuffled"][m], "dpo": by[control][m]}
                for m in (name, "usable")
            ]
            plain = re.sub(r"\d\.\d+", "", verdict(*sets, margin)["verdict"])
            said = got["verdicts"]["measures"][name]
            assert (
                re.sub(r"\d\.\d+", "", said) == plain and f"Verdict, {name}: {said}" in got["notes"]
            )
        kl = (
            got["rows"][control]["means"]["kl"]["mean"],
            got["rows"]["ddpo"]["means"]["kl"]["mean"],
        )
        label = got["rows"][control]["label"]
        assert (
            f"DPO is {label}, {kl[0]:.2f} nats from SFT; DDPO-both stands at {kl[1]:.2f}"
            in " ".join(got["notes"])
        )
    assert matched["rows"]["dpo-matched"]["label"] == "DPO at DDPO-both's KL"
    assert (
        "ddpo - dpo-matched" in matched["differences"]
        and "ddpo-sem - dpo-matched" not in matched["differences"]
    )


def test_gold_is_what_people_wrote_and_needs_two_responses(run, stories, profile):
    results, _ = run
    prompts = evaluation_prompts(profile, stories)["prompt_id"]
    single = prompts[0]
    gold = stories[stories["prompt_id"].isin(prompts) & (stories["prompt_id"] != single)]
    assert results["by_prompt"]["gold"]["prompt_id"] == sorted(prompts[1:])
    values = diversity(
        load_encoder("minilm").encode(gold["text"].tolist()), gold["prompt_id"].to_numpy()
    )
    assert results["by_prompt"]["gold"]["semantic"] == pytest.approx(values.tolist(), abs=1e-4)
    assert (
        results["rows"]["gold"]["stories"] == len(gold) and results["rows"]["gold"]["prompts"] == 4
    )
    assert "1 prompts with fewer than two are left out" in " ".join(results["notes"])
    assert not any(results["by_prompt"]["gold"]["cut"])
    short = diversity(
        load_encoder("minilm").encode(gold["text"].map(first_words).tolist()),
        gold["prompt_id"].to_numpy(),
    )
    assert results["by_prompt"]["gold"]["semantic (25 words)"] == pytest.approx(
        short.tolist(), abs=1e-4
    )
    assert np.abs(short - values).min() > 1e-3  # they are longer than that
    rows = load_encoder("minilm").encode(
        gold["text"][gold["prompt_id"] == sorted(prompts[1:])[0]].tolist()
    )
    assert len(rows) == 4  # sets of another size: the mean over all subsets is the same
    assert values[0] == pytest.approx(
        np.mean([diversity(rows[list(s)]) for s in combinations(range(4), 3)]), abs=1e-6
    )


def test_without_gold_sft_or_controls_the_table_says_so(
    profile, adapters, stories, tmp_path, capsys
):
    lone = stories.drop_duplicates("prompt_id")
    results = evaluate(profile, {"ddpo": adapters / "ddpo"}, tmp_path, lone)
    assert list(results["rows"]) == ["ddpo"] and results["differences"] == {}
    assert not any(results["by_prompt"]["ddpo"]["implausible"])
    show_table(results)
    said = capsys.readouterr().out
    for part in (
        "whether SFT finds it plausible is not checked",
        "Gold: fewer than two of the prompts",
        "No verdict: ",
        "difference is credited to deviation: DDPO-both",
        "quality not measured",
    ):
        assert part in said


def test_the_printed_table_is_aligned_and_never_shows_diversity_without_failures(run, capsys):
    show_table(run[0])
    said = capsys.readouterr().out
    assert "these adapters" in said and "quality not measured: no reward was given" in said
    tables = [part.splitlines() for part in said.split("\n\n")[1:-1]]  # headline first, notes last
    assert len(tables) == 5
    for title, header, *lines in tables:
        assert len({len(line) for line in (header, *lines)}) == 1, title
        if "semantic" in header:
            assert "usable" in header, title
        for line in lines:
            assert re.fullmatch(
                r".*?( +(-?\d+\.\d+ (±\d+\.\d+|\[0\.\d+, [01]\.\d+\])|-))+", line
            ), line
    assert all("semantic" in tables[part][1] for part in (0, 3, 4))
    assert all(fault in tables[1][1] for fault in (*FAULTS, "words", "tokens", "kl"))
    never = next(
        cells for cells in tables[1][2:] if "0.000 [0.000, " in cells
    )  # a fault that no story of a row has
    assert 0.05 < float(never.split("0.000 [0.000, ")[1][:5]) < 0.7


def test_the_files_say_the_same_and_no_path_of_this_machine(run, tmp_path_factory):
    results, folder = run
    assert json.loads((folder / "results.json").read_text()) == results
    for name in ("results.json", "results.csv", "results.md"):
        assert str(tmp_path_factory.getbasetemp()) not in (folder / name).read_text()
    rows = {row["row"]: row for row in csv.DictReader((folder / "results.csv").open())}
    assert list(rows) == [*results["rows"], *results["differences"]]
    assert rows["gold"]["stories"] == "16" and rows["ddpo - dpo"]["stories"] == ""
    for end in ("low", "high"):
        assert float(rows["ddpo"][f"style {end}"]) == results["rows"]["ddpo"]["means"]["style"][end]
    text = (folder / "results.md").read_text()
    assert text.count("| DDPO-both |") == 4 and "- quality not measured" in text
    assert len((folder / "results.json").read_text().splitlines()) < 2000
    assert {"model", "code", "versions", "hardware", "settings", "command", "adapters"} <= set(
        results
    )


# -- on topic, and the command ---------------------------------------------------------------------------------------


def test_a_pool_of_any_size_is_as_strict_as_the_seventy():
    """Of P prompts the nearest 1 + 19 (P - 1) / 69 count: 20 of 70, 10 of 34, and all that is known of the rank."""
    stories = load_stories().query("source == 'assistant'").drop_duplicates("prompt_id")
    stories = stories.assign(
        text=np.roll(stories["text"], 7)
    )  # everybody's story under another prompt
    pool = stories["prompt"].tolist()
    checks = check_stories(stories, "wordllama", pool=pool)
    assert len(pool) == 30 and checks["rank"].max() <= 30
    assert (checks["off_topic"] == (checks["rank"] > 1 + 19 * 29 / 69)).all()
    assert (
        0.2 < checks["off_topic"].mean() < 1
        and (checks["rank"] == 8).any() == (~checks["off_topic"][checks["rank"] == 8]).any()
    )
    seventy = check_stories(stories, "wordllama")
    everything = [*stories["prompt"], *load_prompts()["prompt"]]
    pd.testing.assert_frame_equal(check_stories(stories, "wordllama", pool=everything), seventy)
