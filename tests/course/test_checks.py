"""How a check answers: to a starter, an exception, an odd result and a right answer."""

from __future__ import annotations

import linecache
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checked import NOTEBOOKS, SOLUTIONS, has_tag, name_of, solution

from ddpo_utils import CourseError, ddpo_loss, dorpo_loss
from ddpo_utils.course.checks import check, exercises
from ddpo_utils.course.checks.tools import Learner, NotYet, to_numbers


def mean_distance(e):
    k = len(e)
    return 1 - ((e @ e.T).sum() - k) / (k * (k - 1))


def starter(e):
    """The mean distance."""
    total = ...
    return total


def with_dots_in_an_index(e):
    return mean_distance(e[..., None][..., 0])


def divides_by_zero(e):
    pairs = 0
    return 1 // pairs


def takes_two(e, f):
    return mean_distance(e)


def returns_nothing(e):
    mean_distance(e)


def spoils_its_input(e):
    value = mean_distance(e)
    e[:] = 0
    return value


def test_a_right_answer_is_printed_once(capsys):
    outcome = check("set_diversity", mean_distance)
    assert outcome and outcome.right and outcome._ipython_display_() is None
    assert capsys.readouterr().out == outcome.message + "\n"
    assert outcome.message.startswith("Right: ")


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (starter, r"\.\.\."),
        (lambda e: ..., r"\.\.\."),
        (0.61, "function itself"),
        (divides_by_zero, r"line \d+ of your cell, `return 1 // pairs`, .* ZeroDivisionError \("),
        (lambda e: divides_by_zero(e), "`return 1 // pairs`"),
        (takes_two, "TypeError .*first line"),
        (len, r"gives 4\."),
        (np.linalg.inv, "LinAlgError"),
        (returns_nothing, "return"),
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


def test_harmless_dots_and_changed_inputs_pass():
    assert check("set_diversity", with_dots_in_an_index) and check(
        "set_diversity", spoils_its_input
    )


def test_only_faults_of_the_learner_are_caught():
    def interrupted(e):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("set_diversity", interrupted)
    with pytest.raises(CourseError, match="'diversity'"):
        check("diversity", mean_distance)


def test_numbers_come_from_tensors_lists_and_scalars():
    tensor = torch.tensor([1.0, 2.0], requires_grad=True)
    assert to_numbers(tensor, (2,)).tolist() == to_numbers((tensor[0], 2), (2,)).tolist() == [1, 2]
    assert to_numbers(torch.tensor([3.0]), ()) == 3 and to_numbers([True, False], (2,))[0] == 1
    assert to_numbers(float("inf"), (), finite=False) == np.inf
    with pytest.raises(NotYet):
        to_numbers(1.0, (2,))


def test_the_learner_gets_copies():
    given = [np.ones(3), {"a": [1]}]

    def spoil(rows, names):
        rows[0], names["a"] = 7, None
        return rows

    assert Learner(spoil)(*given)[0] == 7
    assert given[0].tolist() == [1, 1, 1] and given[1] == {"a": [1]}


def test_checks_import_numpy_and_torch_alone():
    code = (
        "import sys; from ddpo_utils.course.checks import exercises; exercises(); "
        "print({'pandas', 'scipy', 'transformers', 'sklearn', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


STARTERS = {
    name_of(cell): cell
    for cells in NOTEBOOKS.values()
    for cell in cells
    if has_tag(cell, "exercise")
}


def test_every_exercise_is_in_the_notebooks_once():
    assert sorted(STARTERS) == sorted(SOLUTIONS) == sorted(exercises())


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_statement_starter_hint_and_solution_follow_each_other(notebook):
    cells = NOTEBOOKS[notebook]
    places = [place for place, cell in enumerate(cells) if has_tag(cell, "exercise")]
    assert 3 <= len(places) <= 4
    for place in places:
        statement, starter_cell, hint, solved = cells[place - 1 : place + 3]
        heading = r"^### Exercise \d: .+\n\n\*(Easy|Medium|Hard), \d+ minutes"
        assert re.search(heading, statement.source)
        assert hint.source.startswith("<details><summary>Hint</summary>")
        assert solved.metadata["tags"] == ["solution"]
        assert solved.metadata["jupyter"]["source_hidden"] is True
        assert "assert check(" in solved.source and name_of(solved) == name_of(starter_cell)
        assert starter_cell.outputs == [] and starter_cell.execution_count is None


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_is_not_yet_right(name, capsys):
    source = STARTERS[name].source
    lines = source.splitlines(keepends=True)
    linecache.cache[name] = (len(source), None, lines, name)  # as a notebook's kernel does
    exec(compile(source, name, "exec"), {})
    wanted = "another pair's" if name == "weighted_rows" else "..."  # one starter has a fault
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet: ") and wanted in printed


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_notebook_s_solution_is_right(name):
    assert check(name, solution(name))


def by_the_package(lo, nll, tokens, weight, lam):
    """DORPO's loss of log-probs of one token each that have the log odds ratio `lo`."""
    rejected = torch.full_like(lo, -2.0)
    chosen = F.logsigmoid(lo + torch.logit(rejected.exp()))
    return dorpo_loss(chosen, rejected, [1] * 3, [1] * 3, nll, tokens, weight, lam)


def by_drawing_half(prompts, systems, seed):
    rng = np.random.default_rng(seed)
    first = set(rng.permutation(prompts)[: len(prompts) // 2].tolist())
    return rng.permutation(prompts).tolist(), {p: systems[p not in first] for p in prompts}


def by_simulation(scores, k):
    rng = np.random.default_rng(0)
    return np.mean([rng.choice(scores, k, replace=False).max() for _ in range(4000)])


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("ddpo_by_hand", ddpo_loss),
        ("dorpo_by_hand", by_the_package),
        ("deal_sides", by_drawing_half),
        ("best_of", by_simulation),
    ],
)
def test_another_right_way_passes(name, answer):
    assert check(name, answer)
