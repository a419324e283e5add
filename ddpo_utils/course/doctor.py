"""What this machine can run, what each profile needs, and the command that adds what is missing.

In an installed wheel, which has no notebooks, it judges what training and evaluating need.

A profile is refused for its estimated memory or for a missing part, never for its name.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from .. import settings
from ..extras import install_command
from ..settings import PROFILES, WRITING_PROMPTS, CourseError, Profile

__all__ = ["PARTS", "Finding", "available_memory", "doctor", "estimate_memory", "lacking", "report"]

GB = 1e9
RELATIVE = os.path.relpath(sys.executable)
PYTHON = sys.executable if RELATIVE.startswith("..") else RELATIVE  # as it is typed in this folder
CLONE = "-e" in install_command("test")
INSTALL = f"{PYTHON} {install_command('test' if CLONE else 'train')}"
EXTRAS = ("", "trainers", "train", "notebooks")[: 4 if CLONE else 3]  # a wheel has no notebooks
CACHE_ROOM, BUILD_ROOM = GB, 3 * GB  # bytes of disk; all notebooks leave less in build/laptop
LONGEST_STORY = 320  # tokens of the longest bundled story with its prompt, rounded up


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` is a command, or "" where nothing is missing."""

    name: str
    value: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"  {self.name:<22} {self.value}"
        return f"{line}\n  {'':<22} fix: {self.remedy}" if self.remedy else line


def available_memory() -> float:
    """Bytes of memory that a new process can take, also within a container's limit."""
    import psutil

    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit
        return float(free)
    return float(min(free, limit - used))


def estimate_memory(profile: Profile, gpu: bool) -> float | None:
    """Estimated bytes at the peak of training; None where the model's sizes are not known offline.

    On a CPU 2 GB more, for Python, libraries, encoders and freed memory that the allocator keeps
    (data/results/memory.json). Bundled stories are shorter than max_length.
    """
    from ..training.plan import peak

    if profile.data == "bundled":
        profile = replace(profile, max_length=min(profile.max_length, LONGEST_STORY))
    try:
        return peak(profile) if gpu else 2 * GB + peak(profile, device="cpu")
    except CourseError:
        return None


def _gpu() -> tuple[str, float]:
    """Description and free bytes of the GPU; ("", 0) if there is none."""
    import torch

    if not torch.cuda.is_available():
        return "", 0.0
    free, total = torch.cuda.mem_get_info()
    major, _ = torch.cuda.get_device_capability()
    dtypes = "bf16" if major >= 8 else "fp16, no bf16"
    name = torch.cuda.get_device_name()
    return f"{name}, {total / GB:.0f} GB ({free / GB:.0f} free), {dtypes}", float(free)


def lacking(profile: Profile) -> list[Finding]:
    """Why the profile cannot run on this machine; what can be fetched is not lacking."""
    faults = [finding for finding in _packages() if finding.remedy]
    if faults:
        return faults
    if profile.data not in ("bundled", WRITING_PROMPTS) and not Path(profile.data).exists():
        faults.append(Finding("data", f"no stories at {profile.data}", "give the path of a file"))
    if profile.quantize and find_spec("bitsandbytes") is None:
        remedy = f"{PYTHON} -m pip install bitsandbytes"
        faults.append(Finding("bitsandbytes", "4-bit weights need it", remedy))
    gpu, free = _gpu()
    if not gpu:
        free = available_memory()
    need = estimate_memory(profile, bool(gpu))
    if need is not None and need > free:
        where = "on the GPU" if gpu else "of memory"
        value = f"it needs about {need / GB:.1f} GB {where} (estimate), {free / GB:.1f} GB are free"
        smaller = f"{PYTHON} -m ddpo_utils run --profile smoke"
        remedy = f"free memory, or take a smaller profile: {smaller}"
        faults.append(Finding("memory", value, remedy))
    return faults


def _machine() -> Iterator[Finding]:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    remedy = "" if fits else "install Python 3.11, 3.12 or 3.13"
    yield Finding("Python", platform.python_version(), remedy)
    yield Finding("system", f"{platform.platform(terse=True)}")
    import psutil

    load, cores = psutil.getloadavg()[0], os.cpu_count() or 1
    busy = ": other programs use the cores, and all takes longer" if load > cores else ""
    yield Finding("load", f"{load:.1f} on {cores} cores{busy}")
    total = psutil.virtual_memory().total
    yield Finding("memory", f"{total / GB:.1f} GB, {available_memory() / GB:.1f} GB free")
    yield _disk("cache", settings.cache_dir(), CACHE_ROOM)
    yield _disk("disk for build/", settings.work_dir("laptop"), BUILD_ROOM)
    model = settings.cache_dir() / "models" / "SmolLM2-135M-Instruct" / "complete"
    if model.exists():
        yield Finding("SmolLM2-135M", "ready")
    else:
        yield Finding("SmolLM2-135M", "absent", f"{PYTHON} -m ddpo_utils fetch")


def _disk(name: str, folder: Path, room: float) -> Finding:
    """Whether `room` bytes can be written to the folder, or to where it will be made."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    usable = free > room and os.access(folder, os.W_OK)
    remedy = f"free {room / GB:.0f} GB in {folder}, or set DDPO_CACHE to another folder"
    return Finding(name, f"{folder}, {free / GB:.0f} GB free", "" if usable else remedy)


def _packages() -> Iterator[Finding]:
    """Each requirement as it is installed; what is absent, with the extra that brings it."""
    from importlib.metadata import PackageNotFoundError, requires, version

    if find_spec("packaging") is None:
        yield Finding("packages", "the base install: weights and losses, no training", INSTALL)
        return
    from packaging.requirements import Requirement

    try:
        lines = requires("ddpo-utils") or []
    except PackageNotFoundError:
        yield Finding("packages", "ddpo-utils is not installed", INSTALL)
        return
    seen = {"ddpo-utils"}  # its own extras repeat requirements
    absent: dict[str, list[str]] = {}
    for requirement in map(Requirement, lines):
        name, marker, range_ = requirement.name, requirement.marker, requirement.specifier
        extras = [e for e in EXTRAS if not marker or marker.evaluate({"extra": e})]
        if not extras or name in seen:
            continue
        seen.add(name)
        try:
            installed = version(name)
        except PackageNotFoundError:
            absent.setdefault(extras[0], []).append(name)
            continue
        fits = range_.contains(installed, prereleases=True)
        remedy = "" if fits else f"{PYTHON} -m pip install '{name}{range_}'"
        yield Finding(name, f"{installed} ({range_})", remedy)
    for extra, names in absent.items():
        remedy = f"{PYTHON} {install_command(extra)}"
        yield Finding(extra or "base", f"lacks {', '.join(names)}", remedy)


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    gpu, _ = _gpu()
    yield Finding("GPU", gpu or "none that torch can use; the course runs without one")
    from ..models.policy import choose_dtype

    dtype = str(choose_dtype("cuda" if gpu else "cpu")).removeprefix("torch.")
    yield Finding("faster number type", dtype if gpu else f"{dtype} (by a short timing)")


def _profiles() -> Iterator[Finding]:
    """Whether each profile fits into memory."""
    gpu, _ = _gpu()
    for name, profile in PROFILES.items():
        faults = lacking(profile)
        if faults:
            value = f"does not fit: {faults[0].name}: {faults[0].value}"
            yield Finding(name, value, faults[0].remedy)
            continue
        need = estimate_memory(profile, bool(gpu))
        yield Finding(name, f"fits: about {need / GB:.1f} GB (estimate)" if need else "fits")


PARTS = {"This machine": _machine, "Packages": _packages, "torch": _torch}


def report(parts: Mapping[str, Callable[[], Iterable[Finding]]]) -> list[Finding]:
    """Print each part under its title and return all findings; an exception is a finding, too."""
    findings = []
    for title, part in parts.items():
        print(title, flush=True)
        try:
            for finding in part():
                print(finding, flush=True)
                findings.append(finding)
        except Exception as error:  # a broken package must not hide the rest of the report
            name = getattr(error, "name", None) or "unknown"
            findings.append(Finding(name, f"{type(error).__name__}: {error}", INSTALL))
            print(findings[-1])
    return findings


def doctor() -> bool:
    """Print the report; true if the default profile (DDPO_PROFILE, else laptop) can run here."""
    report(PARTS | {"Profiles (estimated peak memory of training on this machine)": _profiles})
    default = settings.get_profile()
    try:
        can_run = not lacking(default)
    except ImportError:
        can_run = False
    verdict = "can run here" if can_run else "cannot run here yet: see the lines with `fix`"
    print(f"The default profile, {default.name}, {verdict}.")
    return can_run
