"""For teachers: a rehearsal of a lesson on each machine."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from ..settings import Profile, get_profile
from .doctor import INSTALL, PARTS, Finding, lacking, report
from .notebooks import execute, fetch

__all__ = ["LIVE_STEPS", "live_minutes", "preflight"]

LONGEST_LIVE = 10  # minutes of live training that a class waits for
LIVE_STEPS = {"sft_steps": 6, "steps": 3, "checkpoint_every": 3}  # of notebook 04 on a laptop
LIVE_ARMS = 3
OVERHEAD = 1.3  # measured: its run takes so many times what its steps take


def live_minutes(profile: Profile, seconds: float) -> float:
    """Estimated minutes of notebook 04's live training (SFT and arms) at `seconds` a step."""
    sft_steps, arm_steps = profile.sft_steps, profile.steps
    if profile.name == "laptop":
        sft_steps = min(sft_steps, LIVE_STEPS["sft_steps"])
        arm_steps = min(arm_steps, LIVE_STEPS["steps"])
    return OVERHEAD * (sft_steps + LIVE_ARMS * arm_steps) * seconds / 60


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
    minutes = live_minutes(profile, step)
    advice = ""
    if minutes > LONGEST_LIVE:
        fit = int(60 * LONGEST_LIVE / (OVERHEAD * step)) - 2 * LIVE_ARMS
        fewer = {"sft_steps": max(1, min(fit, profile.sft_steps)), "steps": 2}
        advice = f'; overrides = {json.dumps(fewer)} there is shorter, profile = "smoke" shortest'
    yield Finding("live training", f"about {minutes:.0f} minutes in notebook 04 (estimate){advice}")


def preflight() -> bool:
    """Print the doctor's report and rehearse a lesson offline; true if this machine is ready.

    The last line begins with "ready", or says what to do. Takes a minute or two.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    findings = report(PARTS | {"Profile": lambda: lacking(get_profile())})
    if not any(finding.remedy for finding in findings):
        print("The rest is a rehearsal and takes a minute or two.")
        findings += report({"Loading": _models, "A kernel": _kernel, "Training": _training})
    remedies = dict.fromkeys(finding.remedy for finding in findings if finding.remedy)
    if remedies:
        print(f"not ready: {'; '.join(remedies)}")
    else:
        print(f"ready: live training takes {findings[-1].value}")
    return not remedies
