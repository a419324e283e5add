"""For teachers: a rehearsal on each machine, wheels for rooms offline, and addresses for Colab."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from ..settings import CourseError, Profile, get_profile
from ..storage.files import write_text
from .doctor import GB, INSTALL, PARTS, Finding, lacking, report
from .notebooks import ADDRESS, execute, fetch, find_notebooks, read_notebook, write_notebook

__all__ = ["live_minutes", "live_steps", "preflight", "wheelhouse", "write_address"]

LONGEST_LIVE = 10  # minutes of live training that a class waits for
LIVE_ARMS, ARM_SECONDS = 3, 90  # notebook 04 gives each arm the steps that fit, two at least
OVERHEAD = 1.3  # measured: its run takes so many times what its steps take
COLAB = "https://colab.research.google.com/"
BADGE = "colab-badge"  # id of the cell on top of each notebook
MARKS = re.compile(r"(<!-- colab -->\n).*?(<!-- /colab -->)", re.DOTALL)  # around README's badge
# Only what needs no quoting in code, Markdown and links; a password before the @ is dropped.
URL = r"(?:https?://|ssh://)?(?:[^@/]+@)?([\w.-]+\.\w+)(?::\d+)?[:/]([\w.~/-]+?)(?:\.git)?/?"


def _arm_steps(profile: Profile, seconds: float) -> float:
    """Steps of an arm in notebook 04; only smoke and laptop are held to the clock."""
    if profile.name not in ("smoke", "laptop"):
        return profile.steps
    return min(profile.steps, max(ARM_SECONDS / seconds, 2))


def live_minutes(profile: Profile, seconds: float) -> float:
    """Estimated minutes of notebook 04's live training (SFT and arms) at `seconds` a step."""
    steps = profile.sft_steps + LIVE_ARMS * _arm_steps(profile, seconds)
    return OVERHEAD * steps * seconds / 60


def live_steps(profile: Profile, seconds: float) -> Profile:
    """The profile with steps for LONGEST_LIVE minutes; 1 of SFT and 2 of an arm at least."""
    share = LONGEST_LIVE / live_minutes(profile, seconds)
    if share >= 1:
        return profile
    steps = max(2, int(share * _arm_steps(profile, seconds)))
    sft_steps = int(LONGEST_LIVE * 60 / (OVERHEAD * seconds)) - LIVE_ARMS * steps
    return replace(profile, sft_steps=max(1, min(sft_steps, profile.sft_steps)), steps=steps)


def _default_profile() -> list[Finding]:
    return lacking(get_profile())


def _models() -> Iterator[Finding]:
    fetch(get_profile())
    yield Finding("model and encoders", "loaded")


def _kernel() -> Iterator[Finding]:
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    cell = new_code_cell("import ipywidgets\nimport ddpo_utils.course.plots")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "00_preflight.ipynb"
        nbformat.write(new_notebook(cells=[cell]), path)
        outcome = execute(path, get_profile("smoke"), Path(folder) / "out")
    remedy = f"{INSTALL}; if that is done, close other programs, and allow connections to 127.0.0.1"
    if outcome.fault:
        yield Finding("notebooks", outcome.fault, remedy)
    else:
        yield Finding("notebooks", f"a kernel starts and runs, {outcome.seconds:.0f} s")


def _training() -> Iterator[Finding]:
    """Time SFT steps and estimate notebook 04's live training."""
    from ..training.arms import training_stories
    from ..training.one_arm import train_sft

    profile = get_profile()
    if not (profile.sft_steps and profile.steps):
        command = f"`python -m ddpo_utils plan --profile {profile.name}`"
        yield Finding("live training", f"hours: {command} estimates how many")
        return
    seconds = []
    for steps in (1, 3):  # the difference leaves out the loading
        timed = replace(profile, sft_steps=steps, sft_warmup_steps=0, checkpoint_every=10**6)
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
            record = train_sft(timed, training_stories(timed), Path(folder) / "sft")
        seconds.append(record["seconds"])
    step = max((seconds[1] - seconds[0]) / 2, 0.01)
    yield Finding("a training step", f"{step:.1f} s for {profile.sft_batch_size} stories of SFT")
    fewer = live_steps(profile, step)
    advice = ""
    if live_minutes(fewer, step) > LONGEST_LIVE:
        advice = '; set profile = "smoke" there, or read the recorded runs'
    elif fewer != profile:
        overrides = f'{{"sft_steps": {fewer.sft_steps}, "steps": {fewer.steps}}}'
        advice = f"; overrides = {overrides} there keeps it to {LONGEST_LIVE}"
    minutes = live_minutes(profile, step)
    yield Finding("live training", f"about {minutes:.0f} minutes in notebook 04 (estimate){advice}")


def preflight() -> bool:
    """Print the doctor's report and rehearse a lesson offline; true if this machine is ready.

    The last line begins with "ready", or says what to do. Takes a minute or two.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    findings = report(PARTS | {"Profile": _default_profile})
    if not any(finding.remedy for finding in findings):
        print("The rest is a rehearsal and takes a minute or two.")
        findings += report({"Loading": _models, "A kernel": _kernel, "Training": _training})
    remedies = dict.fromkeys(finding.remedy for finding in findings if finding.remedy)
    if remedies:
        print(f"not ready: {'; '.join(remedies)}")
    else:
        print(f"ready: live training takes {findings[-1].value}")
    return not remedies


def wheelhouse(folder: Path, root: Path) -> None:
    """Fill `folder` with wheels of all that `make course` installs and of the model.

    They fit machines of this system and this Python. pip's own settings choose index and torch.

    Raises:
        CourseError: pip fails; its own message is printed above.
    """
    import tomllib

    from ..models.smollm2 import WHEEL

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    course = [f"{root}[test]", *project["build-system"]["requires"], "editables"]
    if sys.platform == "linux":
        course += ["--constraint", root / ".ci" / "constraints.txt"]
    folder.mkdir(parents=True, exist_ok=True)
    _pip("wheel", "--find-links", folder, "--wheel-dir", folder, *course)
    places = ("--find-links", folder, "--dest", folder)
    _pip("download", *places, "--no-deps", "--only-binary=:all:", WHEEL)
    sizes = [wheel.stat().st_size for wheel in folder.glob("*.whl")]
    print(
        f"{len(sizes)} wheels, {sum(sizes) / GB:.1f} GB, in {folder}. Copy the folder and this "
        "clone (without .venv and build) to each machine; there, in the clone:\n"
        "  PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER make workshop\n"
        "notebooks/README.md has the commands for machines without make."
    )


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    if subprocess.run(command).returncode:
        raise CourseError("pip could not fill the folder: see its message above and try again.")


def _git(root: Path, *arguments: str) -> str:
    """What git prints; "" if it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    return "" if done.returncode else done.stdout.strip()


def write_address(root: Path) -> str:
    """Write the web address of the remote `origin` into the Colab cells, and return it.

    Notebooks and README get badges if the remote is on GitHub, which Colab can open; earlier badges
    are removed. Called again, it changes nothing.

    Raises:
        CourseError: there is no remote `origin` on the web; nothing is changed.
    """
    from nbformat.v4 import new_markdown_cell

    match = re.fullmatch(URL, _git(root, "remote", "get-url", "origin"), re.ASCII)
    if not match:
        raise CourseError(
            "This clone has no remote on the web, or one whose address holds other characters than "
            "letters, digits and . _ ~ / -: publish it, then `git remote add origin ADDRESS`."
        )
    host, name = match[1], match[2].strip("/")
    address = f"https://{host}/{name}"  # without a password
    head = _git(root, "rev-parse", "--abbrev-ref", "origin/HEAD").removeprefix("origin/")
    branch = quote(head or _git(root, "branch", "--show-current") or "main")
    image = f"in Colab]({COLAB}assets/colab-badge.svg)]"
    links = {}
    for path in find_notebooks(root):
        notebook = read_notebook(path)
        notebook.cells = [cell for cell in notebook.cells if cell.id != BADGE]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = ADDRESS.sub(f'REPOSITORY = "{address}"', cell.source)
        if host == "github.com":
            links[path.stem] = f"{COLAB}github/{name}/blob/{branch}/notebooks/{path.name}"
            badge = f"[![Open {path.stem} {image}({links[path.stem]})"
            notebook.cells.insert(0, new_markdown_cell(badge, id=BADGE))
        write_notebook(path, notebook)
    line = ""
    if links:
        numbers = " ".join(f"[{stem[:2]}]({link})" for stem, link in links.items())
        line = f"[![Open the course {image}({next(iter(links.values()))}) {numbers}\n"
    _write_readme_line(root / "README.md", line)
    return address


def _write_readme_line(path: Path, line: str) -> None:
    """Put the line between the README's marks, which are made under its title for the first one."""
    text = path.read_text(encoding="utf-8")
    if line and not MARKS.search(text):
        text = text.replace("\n", "\n\n<!-- colab -->\n<!-- /colab -->\n", 1)
    write_text(path, MARKS.sub(rf"\g<1>{line}\g<2>", text))
