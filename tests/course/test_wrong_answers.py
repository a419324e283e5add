"""Wrong answers to each exercise are refused, with the sentence about their own fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from checked import SOLUTIONS, changed

from ddpo_utils.course.checks import check

TABLE = yaml.safe_load((Path(__file__).parent / "wrong_answers.yaml").read_text("utf-8"))
ROWS = [(name, row) for name, rows in TABLE.items() for row in rows]
CASES = [(name, row) if isinstance(row, str) else (name, *row) for name, row in ROWS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_wrong_answer_gets_the_sentence_about_its_fault(case: Any) -> None:
    name, *change = case
    part = change.pop() if len(change) > 1 else ""
    outcome = check(name, changed(name, *change))
    assert not outcome and part in outcome.message, outcome.message


def test_every_exercise_has_wrong_answers() -> None:
    assert TABLE.keys() == SOLUTIONS.keys() and min(map(len, TABLE.values())) >= 8
