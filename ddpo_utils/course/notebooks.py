"""The course's notebooks as files: found, executed through papermill, written back clean, stamped with their inputs."""

from __future__ import annotations

import base64
import logging
import os
import time
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings import CourseError, Profile
from .notebook_inputs import inputs_digest, is_exercise

__all__ = [
    "Outcome",
    "course_root",
    "execute",
    "find_notebooks",
    "readme_figures",
    "write_back",
    "write_html",
    "write_notebook",
]

METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
HTML = """{% extends 'lab/index.html.j2' %}
{% block data_png %}{% set alt = output | get_metadata('alt', 'image/png') or '' %}
{{- super() | replace('<img ', '<img alt="' ~ (alt | escape_html) ~ '" ', 1) -}}{% endblock %}"""


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook: its name, the seconds it took, and its fault in one line ("" if it passed)."""

    name: str
    seconds: float
    fault: str = ""

    def __str__(self) -> str:
        return f"{self.name:<24} {self.seconds:6.0f} s  {self.fault or 'passed'}"


def course_root() -> Path:
    """The clone that holds the working directory, else the one that holds this package.

    Raises:
        CourseError: neither is a clone of the course.
    """
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[2]):
        if (folder / "notebooks").is_dir() and (folder / "ddpo_utils").is_dir():
            return folder
    raise CourseError(
        "There are no notebooks here: change into a clone of the course and run the command again."
    )


def find_notebooks(root: Path, names: Iterable[str] = ()) -> list[Path]:
    """The numbered notebooks in order, or those whose file names begin with one of `names` ("01", "04_train").

    Raises:
        CourseError: there is none, or a name fits none.
    """
    found = sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    names = [Path(name).name for name in names]
    for name in names:
        if not any(path.name.startswith(name) for path in found):
            known = ", ".join(path.stem for path in found) or "none"
            raise CourseError(f"No notebook begins with {name!r}: there are {known}.")
    if not found:
        raise CourseError(
            "The folder notebooks holds no numbered notebook: is this clone complete?"
        )
    return [
        path for path in found if not names or any(path.name.startswith(name) for name in names)
    ]


@contextmanager
def _kernel_environment(offline: bool) -> Any:
    """Kernels start with this very Python whatever kernels the user has installed, and ask no hub needlessly."""
    before = dict(os.environ)
    os.environ.pop("JUPYTER_PATH", None)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    if offline:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _fault(executed: Any, error: Any) -> str:
    """Number and first line of the failing cell as its reader counts, and the last line of the error."""
    code = [cell for cell in executed.cells if cell.cell_type == "code" and not _injected(cell)]
    number = next(
        (
            i
            for i, cell in enumerate(code, 1)
            if any(o.output_type == "error" for o in cell.outputs)
        ),
        0,
    )
    lines = error.source.strip().splitlines() or [""]
    first = next((line for line in lines if not line.startswith("#")), lines[0])
    last = (str(error.evalue).strip().splitlines() or [""])[-1]
    reason = last if error.ename == "CourseError" else f"{error.ename}: {last}"
    return f"failed in cell {number} ({first[:60]}): {reason}"


def execute(
    path: Path,
    profile: Profile,
    folder: Path,
    offline: bool = False,
    overrides: dict[str, Any] | None = None,
) -> Outcome:
    """Run one notebook through papermill in its own folder; the executed copy and its HTML go into `folder`.

    Args:
        path: of the notebook.
        profile: goes to the notebook as its parameter `profile`.
        folder: where the copies go.
        offline: whether the kernel is told that no hub is needed (HF_HUB_OFFLINE, unless it is set).
        overrides: settings in which the profile differs from its table; its parameter `overrides`.

    Raises:
        CourseError: the folder cannot be written.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(
        logging.CRITICAL
    )  # the line that the caller prints says it all
    started, fault, copy = time.perf_counter(), "", folder.resolve() / path.name
    bar = {"desc": path.stem, "leave": False, "mininterval": 1.0}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if not is_exercise(cell)]
        nbformat.write(notebook, copy)
        with _kernel_environment(offline):
            papermill.execute_notebook(
                copy,
                copy,
                {"profile": profile.name, **({"overrides": overrides} if overrides else {})},
                kernel_name="python3",
                language="python",
                cwd=path.parent,
                progress_bar=bar,
                start_timeout=120,
                extra_arguments=["--IPKernelApp.log_level=40"],
            )
    except papermill.PapermillExecutionError as error:
        fault = _fault(nbformat.read(copy, as_version=4), error)
    except DeadKernelError:
        fault = "failed: its kernel died, most likely because memory ran out (python -m ddpo_utils doctor)"
    except OSError as error:
        raise CourseError(
            f"The executed notebook cannot be stored in {folder} ({error.strerror or error}): free space there and run "
            "the same command again."
        ) from None
    except Exception as error:  # an unreadable notebook, say: one line, and on to the next
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        fault = f"failed outside its cells ({type(error).__name__}): {last}"
    seconds = time.perf_counter() - started
    if copy.is_file():
        write_html(copy)
    return Outcome(path.stem, seconds, fault)


def write_html(path: Path) -> Path:
    """The notebook as one HTML file beside it; figures keep their alternative text, which nbconvert would drop."""
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter(raw_template=HTML).from_filename(str(path))
    page = path.with_suffix(".html")
    page.write_text(html, encoding="utf-8")
    return page


def _injected(cell: Any) -> bool:
    return "injected-parameters" in cell.metadata.get("tags", [])


def _is_bar(output: Any) -> bool:
    """Whether an output is a progress bar: a widget, or a line that rewrites itself."""
    if output.output_type == "stream":
        return output.name == "stderr" and "\r" in output.text
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def write_back(path: Path, executed: Path, data: Path) -> None:
    """Take outputs and counts of an executed copy over into the notebook, and stamp it with its inputs' digest.

    Cell ids, tags and sources stay; progress bars, timings and the machine's own metadata are left out. The file is
    replaced in one step.

    Raises:
        CourseError: the copy was made from other sources.
    """
    import nbformat

    notebook, copy = nbformat.read(path, as_version=4), nbformat.read(executed, as_version=4)
    cells = [cell for cell in copy.cells if not _injected(cell)]
    run = [cell for cell in notebook.cells if not is_exercise(cell)]
    if [cell.source for cell in cells] != [cell.source for cell in run]:
        raise CourseError(f"{path.name} was changed while it ran: run `make notebooks` again.")
    count = 0
    for cell, done in zip(run, cells, strict=True):
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [output for output in done.outputs if not _is_bar(output)]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
        for trace in ("papermill", "execution"):
            cell.metadata.pop(trace, None)
    notebook.metadata = nbformat.from_dict(
        METADATA | {"ddpo": {"inputs": inputs_digest(notebook, data)}}
    )
    write_notebook(path, notebook)
    for name, picture in readme_figures(notebook).items():
        target = path.parent / "figures" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(picture)


def readme_figures(notebook: Any) -> dict[str, bytes]:
    """File names and PNGs of the first pictures of cells tagged `figure:<name>`: what the README shows of a run."""
    figures = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("figure:"):
                pngs = [
                    o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})
                ]
                figures[f"{tag[7:]}.png"] = base64.b64decode(pngs[0])
    return figures


def write_notebook(path: Path, notebook: Any) -> None:
    """Store the notebook in one step: a run that is broken off leaves the old file."""
    import nbformat

    scratch = path.with_suffix(".part")
    nbformat.write(notebook, scratch)
    os.replace(scratch, path)
