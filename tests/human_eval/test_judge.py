"""A language model as a rater: asked in both orders, read strictly, stored answer by answer."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from study import BUILT, KEY, ONE, TWO, write_model
from teller import KEY as SECRET
from teller import completion

from ddpo_utils.cli import main
from ddpo_utils.human_eval.comparisons import QUESTIONS, read_comparisons, write_comparisons
from ddpo_utils.human_eval.judge import consistency, judge, judge_request, read_answer
from ddpo_utils.human_eval.ratings import read_labels, read_ratings

pytest_plugins = "answer_fixtures"


def knows(body: dict[str, Any], number: int) -> tuple[int, Any]:
    """A judge that finds the set of ONE the more diverse, and "two <p> 2" the best story."""
    text = body["messages"][0]["content"]
    (best,) = re.findall(r"^Story (.\d) \(set .\):\ntwo \d 2$", text, re.MULTILINE)
    diverse = "Q" if best[0] == "P" else "P"
    return 200, completion(f"Diverse: {diverse}.\n**best:** {best}")


def test_both_orders_are_asked_and_places_mapped_back(teller, endpoint, tmp_path: Path) -> None:
    teller.answer = knows
    path = tmp_path / "m.json"
    ratings = judge(BUILT, path, endpoint())
    assert read_ratings(path, BUILT) == judge(BUILT, path, endpoint()) == ratings
    assert len(teller.requests) == 12  # nothing is asked twice
    assert (ratings["rater"], ratings["kind"]) == ("m", "model")
    items = {item["item"]: item for item in BUILT.items}
    asked = [(name, order) for name in items for order in ("AB", "BA")]
    assert [(a["item"], a["order"]) for a in ratings["answers"]] == asked
    sent = {request["messages"][0]["content"] for request in teller.requests}
    for answer in ratings["answers"]:
        item = items[answer["item"]]
        text = judge_request(item, answer["order"])
        sent.remove(text)
        places = [text.index(f"\n{story}\n") for side in answer["order"] for story in item[side]]
        assert places == sorted(places)
        assert text.index(item["prompt"]) < places[0]
        assert f"Story P1 (set P):\n{item[answer['order'][0]][0]}\n" in text
        assert all(question in text for question in QUESTIONS.values())
        assert not re.search(r"\b[AB]\d?\b", text.replace("A story", ""))  # the file's letters
        assert KEY["items"][answer["item"]][answer["diverse"]] == ONE
        side, number = answer["best"]
        assert re.fullmatch(r"two \d 2", item[side][int(number) - 1])
    assert not sent
    assert "summaries" in judge_request(items["c01"], "AB", "summaries")
    labels = read_labels(path, BUILT, KEY)
    assert (labels["diverse"] == ONE).all() and (labels["best"] == TWO).all()


@pytest.mark.parametrize(
    ("text", "finished", "diverse", "best"),
    [
        ("diverse: P\nbest: Q4", True, "B", "A4"),
        ("best: p1\n\nDIVERSE: undecided", True, "undecided", "B1"),
        ("- **diverse:** `Q`\n- **best**: *P2*.", True, "A", "B2"),
        ("I think so.\ndiverse: Q\nbest: Q1\nbest: Q1", True, "A", "A1"),
        ("diverse: A\nbest: P1 or P2", True, "unreadable", "unreadable"),
        ("diverse: P\ndiverse: Q\nbest: P5", True, "unreadable", "unreadable"),
        ("diverse: P1\nbest: P", True, "unreadable", "unreadable"),
        ("diverse: P\nbest: P1", False, "B", "unreadable"),  # perhaps P12
        ("diverse: P\nbest: P1\nSince", False, "B", "B1"),
        ("", False, "unreadable", "unreadable"),
    ],
)
def test_answers_are_read_strictly(text, finished, diverse, best) -> None:
    assert read_answer(text, finished, "BA", BUILT) == {"diverse": diverse, "best": best}


def test_consistency_by_hand(tmp_path: Path) -> None:
    answers = [
        ("c01", "A", "B1", "AB"),
        ("c01", "A", "B2", "BA"),
        ("c02", "B", "A1", "AB"),
        ("c02", "undecided", "A1", "BA"),
        ("c03", "undecided", "unreadable", "AB"),
        ("c03", "undecided", "unreadable", "BA"),
        ("c04", "A", "A4", "AB"),
        ("c04", "A", "undecided", "BA"),
    ]
    table = consistency(json.loads(write_model(tmp_path / "j.json", answers).read_text()))
    assert table.index.tolist() == ["diverse", "best", "best story"]
    assert (table["items"] == 4).all()
    assert table["agree"].tolist() == [0.75, 0.5, 0.25]  # best: two sets, one story
    assert table["decided"].tolist() == [5, 5, 5]
    assert table["first"].tolist() == [2 / 5, 3 / 5, 3 / 5]
    assert table["unreadable"].tolist() == [0, 2, 2]
    tied = [{"item": "c01", "order": o, "diverse": "undecided", "best": "B1"} for o in ("AB", "BA")]
    assert math.isnan(consistency({"answers": tied})["first"]["diverse"])


def test_the_command_judges_and_keeps_the_key_secret(teller, tmp_path, capsys, monkeypatch) -> None:
    path = write_comparisons(tmp_path, BUILT, KEY)
    given = ["judge", "--comparisons", str(path), "--model", "a/b:c", "--base-url", teller.url]
    assert main(given) == 1  # nobody agreed to the estimate
    assert not teller.requests
    teller.answer = knows
    monkeypatch.setenv("MY_KEY", SECRET)
    flags = ["--yes", "--key-variable", "MY_KEY", "--temperature", "none", "--max-tokens", "9"]
    assert main([*given, *flags]) == 0
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    request = teller.requests[0]
    assert "temperature" not in request and request["max_tokens"] == 9
    assert request["authorization"] == f"Bearer {SECRET}"
    ratings = read_ratings(tmp_path / "ratings" / "a-b-c.json", read_comparisons(path))
    assert ratings["rater"] == "a/b:c" and len(ratings["answers"]) == 12
