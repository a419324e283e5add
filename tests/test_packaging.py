"""The manifests agree with each other, and name what they should."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ddpo_utils

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def ranges() -> dict[str, Requirement]:
    """Every package that pyproject.toml names, in whatever extra, by its normal name."""
    lines = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    found = {canonicalize_name(r.name): r for r in map(Requirement, lines)}
    found.pop("ddpo-utils")
    return found


def pins(lines: list[str]) -> dict[str, str]:
    """The versions of `name==version` lines, by normal name."""
    return {
        canonicalize_name(name): version
        for name, version in (line.strip().split("==") for line in lines)
    }


def environment() -> dict[str, str]:
    manifest = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    lines = next(entry["pip"] for entry in manifest["dependencies"] if isinstance(entry, dict))
    assert lines[-1] == "-e ."
    return pins(lines[:-1])


def constraints() -> dict[str, str]:
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


def test_environment_pins_exactly_what_pyproject_names() -> None:
    assert set(environment()) == set(ranges())


@pytest.mark.parametrize("manifest", [environment, constraints])
def test_pins_satisfy_the_ranges(manifest) -> None:
    versions = manifest()
    for name, requirement in ranges().items():
        assert requirement.specifier.contains(versions[name], prereleases=True), (
            f"{name}=={versions[name]} is outside"
        )


def test_environment_and_constraints_pin_the_same_versions() -> None:
    tested = constraints()
    assert {name: tested[name] for name in environment()} == environment()
    assert not [name for name, version in tested.items() if Version(version).local], (
        "a local build is on no index"
    )
    assert "ddpo-utils" not in tested


def test_an_installed_torch_is_never_replaced() -> None:
    torch = ranges()["torch"].specifier
    assert all(part.operator == ">=" for part in torch), (
        "an upper bound would make pip replace a newer torch"
    )
    assert torch.contains("2.11.0") and torch.contains("99.0")


def test_ranges_hold_the_two_stacks_in_use() -> None:
    for name, version in (
        ("transformers", "5.17.0"),
        ("sentence-transformers", "6.0.0"),
        ("trl", "1.16.0"),
    ):
        assert ranges()[name].specifier.contains(version)
    assert not ranges()["trl"].specifier.contains("1.17.0"), (
        "the trainer stands on inner parts of this release"
    )


def test_the_policy_wheel_is_in_no_manifest() -> None:
    # its dependencies compile C++ for minutes; policy.py takes the weights out of it and nothing else
    for name in ("pyproject.toml", "environment.yml", ".ci/constraints.txt"):
        assert "smollm2" not in (ROOT / name).read_text(encoding="utf-8").lower()


def test_version_and_licence() -> None:
    assert ddpo_utils.__version__ == PROJECT["version"]
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text(
        encoding="utf-8"
    )


def test_every_name_that_the_package_offers_is_there() -> None:
    for name in ddpo_utils.__all__:
        assert getattr(ddpo_utils, name) is not None


def test_every_data_file_is_in_the_wheel_or_left_out_on_purpose() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"][
        "build"
    ]["targets"]
    named = set(wheel["wheel"]["force-include"])
    files = {f"data/{path.name}" for path in (ROOT / "data").iterdir() if path.is_file()}
    assert named == {
        name for name in files if not Path(name).name.startswith(".")
    }  # folders hold recorded runs


def test_conda_and_pyproject_agree_on_python() -> None:
    manifest = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python = next(
        str(entry) for entry in manifest["dependencies"] if str(entry).startswith("python=")
    )
    version = re.fullmatch(r"python=(3\.\d+)", python)
    assert version and Requirement(f"python{PROJECT['requires-python']}").specifier.contains(
        f"{version[1]}.0"
    )
