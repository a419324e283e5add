"""What teachers use: rehearsal, wheels, Colab's addresses, and the notes and glossary."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from ddpo_utils import cli
from ddpo_utils.course import doctor, notebooks, workshop
from ddpo_utils.course.doctor import Finding
from ddpo_utils.course.notebooks import ADDRESS, inputs_digest
from ddpo_utils.course.workshop import live_minutes, live_steps, wheelhouse, write_address
from ddpo_utils.settings import CourseError, cache_dir, get_profile

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
NOTES = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "notebooks" / "GLOSSARY.md").read_text(encoding="utf-8")
GITHUB = "https://github.com/someone/ddpo"
COLAB_LINK = re.compile(r"\]\((https://colab\.research\.google\.com/github/[^)]*)\)")


@pytest.mark.parametrize(
    ("seconds", "arm_steps"),
    [(1.0, 12), (6.0, 12), (10.0, 9), (60.0, 2), (500.0, 2)],  # all; all; 90 s; two at least
)
def test_live_training_is_estimated_by_notebook_04_s_rule(seconds: float, arm_steps: int) -> None:
    laptop = get_profile("laptop")
    minutes = workshop.OVERHEAD * (laptop.sft_steps + 3 * arm_steps) * seconds / 60
    assert live_minutes(laptop, seconds) == pytest.approx(minutes)
    colab = get_profile("colab", sft_steps=10, steps=20)  # takes all its steps
    assert live_minutes(colab, 60.0) == pytest.approx(workshop.OVERHEAD * 70)


@pytest.mark.parametrize("seconds", [0.5, 8.0, 12.0, 25.0, 45.0, 900.0])
def test_fewer_steps_fit_into_ten_minutes(seconds: float) -> None:
    laptop = get_profile("laptop")
    fewer = live_steps(laptop, seconds)
    assert fewer.sft_steps >= 1 and fewer.steps >= 2
    if live_minutes(laptop, seconds) <= workshop.LONGEST_LIVE:
        assert fewer == laptop
    elif seconds < 60:
        assert live_minutes(fewer, seconds) <= workshop.LONGEST_LIVE


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path) -> None:
    """A machine with memory and disk, a tiny model that is fetched, and a clone to work in."""
    for folder in ("ddpo_utils", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPO_MODEL", str(tiny_folder))
    monkeypatch.setenv("DDPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "available_memory", lambda: 16e9)
    monkeypatch.setattr(doctor, "BUILD_ROOM", 0)
    complete = cache_dir() / "models" / "SmolLM2-135M-Instruct" / "complete"
    complete.parent.mkdir(parents=True)
    complete.touch()


def rehearse(capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status of `doctor --workshop`, its report, and its last line."""
    status = cli.main(["doctor", "--workshop"])
    report = capsys.readouterr().out
    return status, report, report.strip().splitlines()[-1]


def test_the_rehearsal_ends_with_ready(ready: None, capsys: pytest.CaptureFixture[str]) -> None:
    status, report, last = rehearse(capsys)
    assert status == 0 and last.startswith("ready: live training takes about "), report
    for word in ("Python", "trl", "disk for build/", "encoders", "a kernel", "a training step"):
        assert word in report
    assert "train_runtime" not in report  # the trainer's own lines


@pytest.mark.parametrize("remedy", ["ddpo_utils fetch", "1000000000 GB", "free memory"])
def test_a_fault_is_in_the_last_line_and_nothing_is_rehearsed(
    ready: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, remedy: str
) -> None:
    if remedy == "ddpo_utils fetch":
        (cache_dir() / "models" / "SmolLM2-135M-Instruct" / "complete").unlink()
    elif remedy == "1000000000 GB":
        monkeypatch.setattr(doctor, "BUILD_ROOM", 1e18)
    else:
        monkeypatch.setattr(doctor, "available_memory", lambda: 1e9)
    status, report, last = rehearse(capsys)
    assert status == 1 and last.startswith("not ready: ") and remedy in last
    assert "rehearsal" not in report


def test_a_kernel_that_does_not_start_is_not_ready(
    ready: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = notebooks.Outcome("00_preflight", 1.0, "failed: its kernel died")
    monkeypatch.setattr(workshop, "execute", lambda *_, **__: broken)
    monkeypatch.setattr(workshop, "_training", lambda: [Finding("live training", "about 1 minute")])
    status, report, last = rehearse(capsys)
    assert status == 1 and "its kernel died" in report and "pip install" in last


@pytest.mark.parametrize(
    ("seconds", "advice"),
    [(1.0, "(estimate)"), (20.0, 'overrides = {"sft_steps": '), (900.0, 'profile = "smoke"')],
)
def test_slow_machines_are_ready_with_a_setting(
    ready: None, monkeypatch: pytest.MonkeyPatch, seconds: float, advice: str
) -> None:
    from ddpo_utils.training import one_arm

    def train(profile, *_):
        return {"seconds": 30.0 + profile.sft_steps * seconds}  # 30 s of loading

    monkeypatch.setattr(one_arm, "train_sft", train)
    step, live = workshop._training()
    assert step.value.startswith(f"{seconds:.1f} s") and advice in live.value and not live.remedy


def test_a_wheelhouse_that_pip_cannot_fill_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/slow/test_wheelhouse.py runs pip."""
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(subprocess, "run", lambda command: failed)
    with pytest.raises(CourseError):
        wheelhouse(tmp_path / "wheels", ROOT)


def git(root: Path, *arguments: str) -> None:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def contents(root: Path) -> dict[str, bytes]:
    paths = (*root.glob("notebooks/*.ipynb"), root / "README.md")
    return {path.name: path.read_bytes() for path in paths}


def addresses(path: Path) -> list[str]:
    sources = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return [match[0].split('"')[1] for match in map(ADDRESS.search, sources) if match]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Two of the notebooks without outputs, address or badge, and a README; no remote yet."""
    (tmp_path / "notebooks").mkdir()
    for path in NOTEBOOKS[:2]:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if cell.id != workshop.BADGE]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.source = [], ADDRESS.sub('REPOSITORY = ""', cell.source)
        nbformat.write(notebook, tmp_path / "notebooks" / path.name)
    (tmp_path / "README.md").write_text("# Title\n\nText.\n")
    git(tmp_path, "init", "-q", "-b", "trunk")
    return tmp_path


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/someone/ddpo.git", GITHUB),
        ("git@github.com:someone/ddpo.git", GITHUB),
        ("ssh://git@example.org:2222/group/sub/ddpo", "https://example.org/group/sub/ddpo"),
        ("https://user:secret@example.org/someone/ddpo/", "https://example.org/someone/ddpo"),
    ],
)
def test_address_and_badges_of_each_remote(clone: Path, remote: str, address: str) -> None:
    paths = sorted((clone / "notebooks").iterdir())
    before = [inputs_digest(nbformat.read(path, 4), ROOT / "data") for path in paths]
    git(clone, "remote", "add", "origin", remote)
    assert write_address(clone) == address
    assert [inputs_digest(nbformat.read(path, 4), ROOT / "data") for path in paths] == before
    first = contents(clone)
    assert write_address(clone) == address and contents(clone) == first
    assert b"secret" not in b"".join(first.values())
    base = "https://colab.research.google.com/github/someone/ddpo/blob/trunk/notebooks/"
    links = [base + path.name for path in paths] if address == GITHUB else []
    for place, path in enumerate(paths):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert addresses(path) == [address]
        assert COLAB_LINK.findall(notebook.cells[0].source) == links[place : place + 1]
    readme = (clone / "README.md").read_text()
    assert COLAB_LINK.findall(readme) == links[:1] + links
    assert readme.startswith("# Title\n") and readme.endswith("Text.\n")


def test_badges_follow_the_remote_and_its_default_branch(clone: Path) -> None:
    git(clone, "remote", "add", "origin", GITHUB)
    git(clone, "commit", "-q", "--allow-empty", "-m", "first")
    git(clone, "update-ref", "refs/remotes/origin/stable", "HEAD")
    git(clone, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/stable")
    write_address(clone)
    links = COLAB_LINK.findall((clone / "README.md").read_text())
    assert links and all("/ddpo/blob/stable/notebooks/" in link for link in links)
    git(clone, "remote", "set-url", "origin", "https://example.org/someone/ddpo")
    write_address(clone)
    everything = b"".join(contents(clone).values())
    assert b"colab-badge.svg" not in everything and b"github.com" not in everything


@pytest.mark.parametrize(
    "remote",
    [
        "",
        "/srv/course.git",
        "https://example.org/some'one/ddpo",
        'https://example.org/x"; import os; os.system("id") #',
        "https://example.org/a\\ndpo",
        "https://example.org/someone/ddpo)](javascript:alert(1))",
        "https://example.org/\x1b[31mddpo",
        "https://exämple.org/someone/ddpo",
    ],
)
def test_without_a_plain_address_on_the_web_nothing_is_changed(clone: Path, remote: str) -> None:
    before = contents(clone)
    if remote:
        git(clone, "remote", "add", "origin", remote)
    with pytest.raises(CourseError):
        write_address(clone)
    assert contents(clone) == before


def test_a_notebook_without_cell_ids_gets_its_badge(clone: Path) -> None:
    git(clone, "remote", "add", "origin", GITHUB)
    path = next((clone / "notebooks").iterdir())
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        del cell["id"]
    for minor in (4, 5):
        path.write_text(json.dumps(notebook | {"nbformat_minor": minor}))
        write_address(clone)
        nbformat.validate(nbformat.read(path, 4))
        assert addresses(path) == [GITHUB] and path.read_text().count("colab-badge.svg") == 1
    path.write_text("[]")
    with pytest.raises(CourseError, match=path.name):
        write_address(clone)


def test_the_course_holds_no_dead_link() -> None:
    """All notebooks name one address; there are badges, and to that one, if it is on GitHub."""
    (address,) = {line for path in NOTEBOOKS for line in addresses(path)}
    home = address.replace("github.com", "colab.research.google.com/github") + "/blob/"
    for path in (*NOTEBOOKS, ROOT / "README.md"):
        links = COLAB_LINK.findall(path.read_text("utf-8"))
        assert bool(links) == address.startswith("https://github.com/"), f"{path.name}: make colab"
        assert all(link.startswith(home) for link in links), f"{path.name}: make colab"


def test_the_notes_name_every_notebook_and_real_commands() -> None:
    course_map, _, rest = NOTES.partition("## Start anywhere")
    starts = rest.partition("# Teaching notes")[0]
    names = [path.stem for path in NOTEBOOKS]
    assert re.findall(r"^\| (\d\d\w+) \|", course_map, re.MULTILINE) == names
    numbers = [name[:2] for name in names]
    assert re.findall(r"^\| (\d\d) \|", starts, re.MULTILINE) == numbers
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)", NOTES))
    assert targets and targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = re.findall(r"python -m ddpo_utils ([^`\n]+)", NOTES)
    assert len(commands) >= 4
    for command in commands:
        cli._parser().parse_args(command.split())  # exits if it cannot


def test_the_figure_under_discussion_is_notebook_01_s() -> None:
    pattern = r"already reaches (\d\.\d\d)\?\*\*.*begins `([^`]+)`.*authors have (\d\.\d\d)"
    assistant, beginning, authors = re.search(pattern, NOTES).groups()
    cells = nbformat.read(NOTEBOOKS[0], as_version=4).cells
    (cell,) = (cell for cell in cells if cell.source.startswith(beginning))
    printed = json.dumps(cell.outputs)
    for name, figure in (("assistant_iter", assistant), ("authors", authors)):
        value = float(re.search(rf"{name}\s+(\d\.\d+) \[", printed)[1])
        assert abs(value - float(figure)) <= 0.0051, name


def test_no_notebook_needs_another_s_files() -> None:
    """A notebook's working folder is its own; in place of 04's adapters recorded ones do."""
    owner: dict[str, str] = {}
    for path in NOTEBOOKS:
        code = path.read_text(encoding="utf-8").replace('\\"', '"')
        for folder in re.findall(r'work_dir\(settings\) / f?"([\w-]+)', code):
            assert owner.setdefault(folder, path.name) == path.name, folder
    assert owner["adapters"] == "04_train_ddpo.ipynb"


def test_the_glossary_is_sorted_and_names_real_notebooks() -> None:
    row = r"^\| ([^|]+) \| \[(\d\d)\]\(([^)]+)\) \| ([^|]+) \|$"
    rows = re.findall(row, GLOSSARY, re.MULTILINE)
    assert len(rows) == GLOSSARY.count("\n| ") - 2 > 40
    terms = [term.lower() for term, *_ in rows]
    assert terms == sorted(set(terms))
    for term, number, file, meaning in rows:
        assert (ROOT / "notebooks" / file).is_file() and file.startswith(number), term
        assert meaning.endswith((".", ")")) and len(meaning.split()) < 60, term
