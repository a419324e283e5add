"""How the checks of the exercises speak: to a starter, an exception, an odd result, and a right answer."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpo_utils import CourseError
from ddpo_utils.course.checks import MODULES, check, exercises
from ddpo_utils.course.checks.tools import Learner, NotYet, numbers


def mean_distance(e):
    k = len(e)
    return 1 - ((e @ e.T).sum() - k) / (k * (k - 1))


def starter(e):
    """The mean distance."""
    total = ...
    return total


def with_dots_in_an_index(e):
    rows = e[..., None][..., 0]
    return mean_distance(rows)


def divides_by_nothing(e):
    pairs = 0
    return 1 // pairs


def calls_another(e):
    return divides_by_nothing(e)


def takes_two(e, f):
    return mean_distance(e)


def returns_nothing(e):
    mean_distance(e)


def returns_text(e):
    return "far"


def returns_many(e):
    return e @ e.T


def returns_a_nan(e):
    return float("nan")


def spoils_its_input(e):
    value = mean_distance(e)
    e[:] = 0
    return value


def test_a_right_answer_is_said_once_and_is_true(capsys):
    outcome = check("set_diversity", mean_distance)
    assert outcome and outcome.right
    assert capsys.readouterr().out == outcome.says + "\n" and outcome.says.startswith("Right: ")
    assert (
        outcome._ipython_display_() is None and capsys.readouterr().out == ""
    )  # Jupyter shows no second line


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (starter, r"Replace the dots \(\.\.\.\)"),
        (..., "Give check the function itself"),
        (0.61, "Give check the function itself"),
        (
            divides_by_nothing,
            r"line \d+ of your cell, `return 1 // pairs`, stops with ZeroDivisionError \(",
        ),
        (
            calls_another,
            r"line \d+ of your cell, `return 1 // pairs`, stops with ZeroDivisionError",
        ),
        (
            takes_two,
            "cannot be called as the exercise does: TypeError .*Keep the starter's first line",
        ),
        (len, "distance; your function gives them 4.00"),
        (np.linalg.inv, "your function stops with LinAlgError"),
        (returns_nothing, "returns nothing: let it end with a line that begins with `return`"),
        (lambda e: ..., "Replace the dots"),
        (returns_text, "must return numbers; yours returns str"),
        (returns_many, r"must return one number here; yours returns an array of shape \(4, 4\)"),
        (returns_a_nan, "returns NaN or infinity"),
    ],
)
def test_what_is_wrong_is_said_and_not_raised(capsys, answer, says):
    outcome = check("set_diversity", answer)
    printed = capsys.readouterr().out
    assert not outcome and printed.startswith("Not yet: ") and printed.count("\n") == 1
    with pytest.raises(NotYet, match=says):
        raise NotYet(printed)


def test_in_a_notebook_the_sentence_stands_alone_and_names_the_cell_s_own_line(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    asked = "from ddpo_utils.course.checks import check\n\ndef mine(e):\n    {}\n\ncheck('set_diversity', mine)"
    for body, says in (
        ("...", "Replace the dots"),
        ("return e.far()", "line 4 of your cell, `return e.far()`, stops with"),
    ):
        assert shell.run_cell(asked.format(body)).success
        printed = capsys.readouterr().out
        assert printed.startswith(f"Not yet: {says}") and printed.count("\n") == 1
    shell.run_cell("check('no_such_exercise', mine)")
    printed = capsys.readouterr().out
    assert (
        "CourseError: There is no exercise 'no_such_exercise'" in printed
        and "Traceback" not in printed
    )


def test_dots_in_an_index_and_spoilt_inputs_do_no_harm():
    assert check("set_diversity", with_dots_in_an_index) and check(
        "set_diversity", spoils_its_input
    )


def test_only_the_learner_s_own_faults_are_caught():
    def interrupted(e):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("set_diversity", interrupted)
    with pytest.raises(
        CourseError, match=r"There is no exercise 'diversity': there are set_diversity,"
    ):
        check("diversity", mean_distance)


def test_numbers_come_from_tensors_lists_and_scalars():
    tensor = torch.tensor([1.0, 2.0], requires_grad=True)
    assert numbers(tensor, 2).tolist() == [1, 2] and numbers((tensor[0], 2), 2).tolist() == [1, 2]
    assert (
        numbers(torch.tensor([3.0])) == 3
        and numbers(np.float32(3)) == 3
        and numbers([True, False], 2)[0] == 1
    )
    assert numbers(float("inf"), finite=False) == np.inf
    with pytest.raises(NotYet, match="must return 2 numbers here; yours returns one number"):
        numbers(1.0, 2)


def test_the_learner_gets_copies():
    given = [np.ones(3), {"a": [1]}]

    def spoil(rows, names):
        rows[0], names["a"] = 7, None
        return rows

    assert Learner(spoil)(*given)[0] == 7
    assert given[0].tolist() == [1, 1, 1] and given[1] == {"a": [1]}


def test_every_notebook_has_three_or_four_exercises():
    from ddpo_utils.course.checks.tools import EXERCISES

    names = exercises()
    assert len(names) == len(set(names))
    by_module = {}
    for name in names:
        by_module.setdefault(EXERCISES[name].__module__.rpartition(".")[2], []).append(name)
    assert tuple(by_module) == MODULES
    assert all(3 <= len(own) <= 4 for own in by_module.values()), by_module


def test_every_exercise_is_tested():
    files = sorted(Path(__file__).parent.glob("test_checks_*.py"))
    parts = [importlib.import_module(file.stem) for file in files]
    assert sorted(name for part in parts for name in part.RIGHT) == sorted(exercises())


def test_the_checks_need_numpy_and_torch_alone():
    code = (
        "import sys; from ddpo_utils.course.checks import exercises; exercises(); "
        "print([m for m in ('pandas', 'scipy', 'transformers', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
