"""How a check answers: to a starter, an exception, an odd result and a right answer."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checked import NOTEBOOKS, PAGES, SOLUTIONS, has_tag, name_of, solution, solutions

from ddpo_utils import CourseError, ddpo_loss, dorpo_loss
from ddpo_utils.course.checks import check, exercises
from ddpo_utils.course.checks.tools import Learner


def mean_distance(e):
    k = len(e)
    return 1 - ((e @ e.T).sum() - k) / (k * (k - 1))


def spoils_its_input(e):
    value = mean_distance(e)
    e[:] = 0
    return value


def test_a_right_answer_is_printed_once(capsys):
    outcome = check("set_diversity", spoils_its_input)
    assert outcome and outcome._ipython_display_() is None
    assert capsys.readouterr().out == outcome.message + "\n"
    assert outcome.message.startswith("Right: ")


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda e: None, "return"),
        (0.61, "function itself"),
        (lambda e: 1 // 0, r"line \d+ of your cell, `.*1 // 0.*`, .* ZeroDivisionError"),
        (lambda e, f: 1, "TypeError.*first line"),
        (np.linalg.inv, "LinAlgError"),
        (lambda e: "far", "str"),
        (lambda e: e @ e.T, r"one number, .*\(4, 4\)"),
        (lambda e: float("nan"), "NaN"),
    ],
)
def test_a_fault_is_printed_and_not_raised(capsys, answer, part):
    assert not check("set_diversity", answer)
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet: ") and printed.count("\n") == 1
    assert re.search(part, printed), printed


@pytest.mark.parametrize("value", [7, "harbour", [], {}])
def test_a_result_of_another_form_is_not_yet_right(value: Any) -> None:
    for name in ("deal_sides", "frontier", "nearest_control", "justified_verdict", "weighted_rows"):
        assert not check(name, lambda *inputs: value)


def test_a_notebook_shows_one_sentence_with_the_cell_s_own_line(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    cell = "from ddpo_utils.course.checks import check\n\ndef mine(e):\n    {}\n\ncheck({!r}, mine)"
    assert shell.run_cell(cell.format("return e.far()", "set_diversity")).success
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet: line 4 of your cell") and printed.count("\n") == 1
    shell.run_cell(cell.format("...", "no_such_exercise"))
    printed = capsys.readouterr().out
    assert "CourseError: " in printed and "no_such_exercise" in printed
    assert "Traceback" not in printed


def test_only_faults_of_the_learner_are_caught():
    with pytest.raises(KeyboardInterrupt):
        check("set_diversity", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(CourseError, match="'diversity'"):
        check("diversity", mean_distance)


def test_numbers_come_from_tensors_lists_and_scalars():
    same = Learner(lambda value: value)
    tensor = torch.tensor([1.0, 2.0])
    for value in (tensor, (tensor[0], 2), [True, 2]):
        assert same.numbers(2, value).tolist() == [1, 2]
    assert same.number(torch.tensor([3.0])) == 3


STARTERS = {
    name_of(cell): cell
    for cells in NOTEBOOKS.values()
    for cell in cells
    if has_tag(cell, "exercise")
}


def test_every_exercise_is_in_the_notebooks_once():
    assert sorted(STARTERS) == sorted(SOLUTIONS) == sorted(exercises())


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_statement_starter_and_hint_follow_each_other_and_name_the_solution(notebook):
    cells = NOTEBOOKS[notebook]
    places = [place for place, cell in enumerate(cells) if has_tag(cell, "exercise")]
    assert 3 <= len(places) <= 4
    headings = []
    for place in places:
        statement, starter_cell, hint = cells[place - 1 : place + 2]
        heading = r"^### (Exercise \d: .+)\n\n\*(Easy|Medium|Hard), \d+ minutes"
        headings.append(re.search(heading, statement.source)[1])
        assert hint.source.startswith("<details><summary>Hint</summary>")
        assert hint.source.endswith(f"[Solution](solutions/{notebook}.md)")
        assert starter_cell.outputs == [] and starter_cell.execution_count is None
    assert headings == [solved.heading for solved in solutions(PAGES[notebook])]


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_is_not_yet_right(name, capsys):
    exec(STARTERS[name].source, {})
    wanted = "another pair's" if name == "weighted_rows" else "..."  # one starter has a fault
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet: ") and wanted in printed


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_solution_gives_the_sentence_beside_it(name: str, capsys: Any) -> None:
    assert check(name, solution(name))
    assert capsys.readouterr().out == SOLUTIONS[name].said + "\n"


def by_the_package(lo, nll, tokens, weight, lam):
    """DORPO's loss of log-probs of one token each that have the log odds ratio `lo`."""
    rejected = torch.full_like(lo, -2.0)
    chosen = F.logsigmoid(lo + torch.logit(rejected.exp()))
    return dorpo_loss(chosen, rejected, [1] * len(lo), [1] * len(lo), nll, tokens, weight, lam)


def by_drawing_half(prompts, systems, seed):
    rng = np.random.default_rng(seed)
    first = set(rng.permutation(prompts)[: len(prompts) // 2].tolist())
    return rng.permutation(prompts).tolist(), {p: systems[p not in first] for p in prompts}


def by_simulation(scores, k):
    rng = np.random.default_rng(0)
    return np.mean([rng.choice(scores, k, replace=False).max() for _ in range(4000)])


def test_another_right_way_passes():
    assert check("ddpo_by_hand", ddpo_loss)
    assert check("dorpo_by_hand", by_the_package)
    assert check("deal_sides", by_drawing_half)
    assert check("best_of", by_simulation)
