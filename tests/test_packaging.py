"""The manifests agree with each other, and editors see the public names."""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ddpo_utils
from ddpo_utils.extras import install_command, needs
from ddpo_utils.trainers import VERSIONS

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
MANIFEST = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]

USER_SCRIPT = """
import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from trl.trainer.dpo_config import DPOConfig
from ddpo_utils import DDPOTrainer, add_weights, compute_deviation, deviation_weights, get_profile

encoder = SentenceTransformer("all-MiniLM-L6-v2")
weights: np.ndarray = deviation_weights(np.eye(4), groups=["a", "a", "a", "b"], floor=0.1)
deviation: np.ndarray = compute_deviation(["one", "two", "three"], encoder)
pairs = add_weights(Dataset.from_list([]), encoder, encoder, mean_one=True)
DDPOTrainer("model", args=DPOConfig(output_dir="out"), train_dataset=pairs).train()
print(get_profile("laptop", seed=7).learning_rate + weights.sum())
"""
FAULTY_SCRIPT = """
from sentence_transformers import SentenceTransformer
from datasets import Dataset
from ddpo_utils import DDPOTraner, add_weights, get_profile

dataset = Dataset.from_list([])
encoder = SentenceTransformer("all-MiniLM-L6-v2")
dataset = add_weights(dataset, "all-MiniLM-L6-v2")
profile = get_profile("laptop")
print(profile.learning_rte)
"""


def ranges() -> dict[str, Requirement]:
    """Every package that pyproject.toml names, in any extra, by its normal name."""
    lines = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        lines += extra
    found = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    del found["ddpo-utils"]
    return found


def pins(lines: list[str]) -> dict[str, str]:
    """The versions of `name==version` lines, by normal name."""
    pairs = [line.strip().split("==") for line in lines if "==" in line]
    return {canonicalize_name(name): version for name, version in pairs}


def environment() -> dict[str, str]:
    return pins(MANIFEST[-1]["pip"])


def constraints() -> dict[str, str]:
    return pins((ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines())


def test_the_pins_are_those_of_the_named_packages_and_within_their_ranges() -> None:
    assert set(environment()) == set(ranges()) and MANIFEST[-1]["pip"][-1] == "-e ."
    tested = constraints()
    assert {name: tested[name] for name in environment()} == environment()
    for name, requirement in ranges().items():
        assert requirement.specifier.contains(tested[name], prereleases=True), name
    local = [name for name, version in tested.items() if Version(version).local]
    assert not local and "ddpo-utils" not in tested


def test_ranges_hold_the_stacks_in_use_and_never_replace_a_newer_torch() -> None:
    wide = {"torch": "2.11.0", "transformers": "5.17.0", "sentence-transformers": "6.0.0"}
    for name, version in (wide | {"trl": "1.16.0"}).items():
        assert ranges()[name].specifier.contains(version), name
    assert ranges()["torch"].specifier.contains("99.0")
    assert not ranges()["trl"].specifier.contains("1.17.0")  # the trainers use its inner parts


def test_the_trainers_take_what_their_extra_allows() -> None:
    extra = PROJECT["optional-dependencies"]["trainers"]
    for package, (oldest, above) in VERSIONS.items():
        assert f"{package}>={oldest},<{above}" in extra


def test_the_policy_wheel_is_in_no_manifest() -> None:
    # its dependencies compile C++ for minutes; models/smollm2.py takes the weights out of it
    for name in ("pyproject.toml", "environment.yml", ".ci/constraints.txt"):
        assert "smollm2" not in (ROOT / name).read_text(encoding="utf-8").lower()


def test_version_licence_and_python() -> None:
    assert ddpo_utils.__version__ == PROJECT["version"] and PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    python = re.fullmatch(r"python=(3\.\d+)", str(MANIFEST[0]))[1]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.0")


def test_every_data_file_is_in_the_wheel() -> None:
    named = set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"])
    files = [path for path in (ROOT / "data").iterdir() if path.is_file()]
    assert named == {f"data/{path.name}" for path in files if not path.name.startswith(".")}


def test_the_trainers_extra_is_slim() -> None:
    names = {Requirement(line).name for line in PROJECT["optional-dependencies"]["trainers"]}
    assert names == {"accelerate", "datasets", "peft", "transformers", "trl"}


def test_the_readme_of_a_wheel_has_no_relative_link(monkeypatch: pytest.MonkeyPatch) -> None:
    hatchling = SimpleNamespace(MetadataHookInterface=object)  # is there when a wheel is built
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", hatchling)
    hook = runpy.run_path(str(ROOT / ".ci" / "hatch_build.py"))["ReadmeHook"]()
    hook.root = str(ROOT)
    metadata = {"urls": PROJECT["urls"]}
    hook.update(metadata)
    links = re.findall(r"\]\(([^)]*)\)", metadata["readme"]["text"])
    home = PROJECT["urls"]["Repository"]
    assert links and all(re.match("https?://", link) for link in links)
    assert f"{home}/raw/main/notebooks/figures/tiny_stories.png" in links


@pytest.mark.parametrize("package", ["trl", "pydantic"])
def test_in_the_base_install_the_rest_works_and_the_extra_is_named(package: str) -> None:
    code = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {package!r} else find(name, *rest)
sys.modules[{package!r}] = None
from ddpo_utils import *
import ddpo_utils
print(compute_deviation, len(ddpo_utils.__all__))
help(ddpo_utils)
for name in ddpo_utils._AT_ONCE[{package!r}]:
    try:
        getattr(ddpo_utils, name)
    except ImportError as fault:
        print("fault:", fault)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    faults = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
    assert len(faults) == len(ddpo_utils._AT_ONCE[package])
    assert all("pip install" in fault for fault in faults)


def test_an_extra_is_installed_from_the_clone_or_by_the_wheel_s_name(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("ddpo_utils.extras.__file__", str(tmp_path / "extras.py"))
    assert install_command("train") == "-m pip install -e '.[train]'"
    (tmp_path / "data").mkdir()
    with pytest.raises(ImportError, match=r"'ddpo-utils\[qlora\]'`$"), needs("train"):
        needs("qlora")(importlib.import_module)("no_such_module")


def test_every_public_name_is_there() -> None:
    for name in ddpo_utils.__all__:
        assert getattr(ddpo_utils, name) is not None
    assert set(ddpo_utils._MODULES) <= set(ddpo_utils.__all__)


@pytest.mark.parametrize(("script", "faults"), [(USER_SCRIPT, []), (FAULTY_SCRIPT, [4, 8, 10])])
@pytest.mark.parametrize("checker", ["mypy", pytest.param("pyright", marks=pytest.mark.slow)])
def test_a_type_checker_sees_the_public_names(
    tmp_path: Path, script: str, faults: list[int], checker: str
) -> None:
    pytest.importorskip(checker, reason="pip install pyright")
    (tmp_path / "user.py").write_text(script, encoding="utf-8")
    config = {"extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", checker, "user.py"]
    if checker == "mypy":
        command += ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", "cache"]
    else:
        command += ["--pythonpath", sys.executable]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    found = re.findall(r"user\.py:(\d+)\S* (?:- )?error:", done.stdout)
    assert [int(line) for line in found] == faults, done.stdout + done.stderr
