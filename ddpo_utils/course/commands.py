"""What the commands run and fetch do; the others' work stands in the modules that they are named after."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..settings import CourseError, Profile

__all__ = ["fetch", "run"]


def run(
    profile: Profile, names: Sequence[str] = (), write_back: bool = False, **overrides: Any
) -> bool:
    """Run the notebooks in order, one line each, and go on after a failure; True if all passed.

    Args:
        profile: handed to every notebook.
        names: beginnings of notebooks' names ("01"); none means all.
        write_back: also store the outputs of those that passed in notebooks/.
        overrides: the settings in which `profile` differs from its table, handed on as well.

    Raises:
        CourseError: the profile cannot run here (memory, a missing part), or results cannot be stored.
    """
    from . import notebooks
    from .doctor import lacking

    root = notebooks.course_root()
    paths = notebooks.find_notebooks(root, names)
    for fault in lacking(profile):
        raise CourseError(
            f"The profile {profile.name} cannot run here: {fault.value} ({fault.what}); {fault.mend}."
        )
    fetch(profile)
    folder = root / "build" / profile.name
    outcomes = []
    for path in paths:
        outcome = notebooks.execute(
            path, profile, folder, offline=not _of_hub(profile), overrides=overrides
        )
        if write_back and not outcome.fault:
            notebooks.write_back(path, folder / path.name, root / "data")
        print(outcome, flush=True)
        outcomes.append(outcome)
    failed = sum(bool(outcome.fault) for outcome in outcomes)
    minutes = sum(outcome.seconds for outcome in outcomes) / 60
    print(
        f"{len(outcomes) - failed} passed, {failed} failed in {minutes:.1f} minutes with the profile {profile.name}; "
        f"executed notebooks and HTML are in {os.path.relpath(folder)}"
    )
    return not failed


def _of_hub(profile: Profile) -> list[str]:
    """The profile's models and encoders that come from the Hub."""
    bundled = {"", "smollm2-wheel", "minilm", "wordllama", "stylometric", "delta"}
    model = os.environ.get("DDPO_MODEL") or profile.model
    tokenizer = "" if os.environ.get("DDPO_MODEL") else profile.tokenizer
    names = (
        model,
        tokenizer,
        profile.semantic,
        profile.style,
        profile.judge_semantic,
        profile.judge_style,
    )
    return [name for name in names if name not in bundled and not Path(name).exists()]


def fetch(profile: Profile) -> None:
    """Fetch the profile's model and encoders into the caches; at once where they are there.

    Raises:
        CourseError: one cannot be fetched.
    """
    from ..embeddings.encoders import load_encoder
    from ..models.policy import cannot_load
    from ..models.smollm2 import fetch_smollm2

    model = os.environ.get("DDPO_MODEL") or profile.model
    if model == "smollm2-wheel":
        fetch_smollm2()
    elif model in _of_hub(profile):
        from huggingface_hub import snapshot_download

        for name, files in ((model, ["*.safetensors"]), (profile.tokenizer or model, [])):
            try:
                snapshot_download(
                    name, allow_patterns=[*files, "*.json", "*.model", "*.txt", "*.jinja"]
                )
            except Exception as error:
                raise cannot_load("model" if files else "tokenizer", name, error) from None
    for name in (profile.semantic, profile.style, profile.judge_semantic, profile.judge_style):
        load_encoder(name).encode(["A story begins."])
