"""Two evaluations at once, and files of a folder that are damaged: refused by name, or mended."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluated import LENIENT, same, samples_of

from ddpo_utils import CourseError
from ddpo_utils.evaluation import scores
from ddpo_utils.evaluation.evaluate import evaluate, find_adapters
from ddpo_utils.storage.files import write_json
from ddpo_utils.storage.locks import locked

pytest_plugins = ["evaluation_fixtures"]

NO_SCORES = ["", "[0.1, ", "{}", "[NaN]", '["-1.2"]', "[1e999]", f"{[0.5] * 99}"]


def test_a_second_evaluation_of_a_folder_gets_a_sentence(profile, adapters, stories, tmp_path):
    folder, models = tmp_path / "evaluation", find_adapters(adapters)
    with locked(folder), ThreadPoolExecutor(1) as pool:
        error = pool.submit(evaluate, profile, models, folder, stories, LENIENT).exception()
    assert isinstance(error, CourseError) and str(folder) in str(error)
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["ddpo-*.kl.json", "gold-*.logp.json"])
@pytest.mark.parametrize("text", NO_SCORES)
def test_damaged_scores_are_refused_by_name(copy, profile, adapters, stories, kind, text):
    (path,) = (path for path in copy.glob(kind) if "sem" not in path.name)
    path.write_text(text)
    with pytest.raises(CourseError, match=re.escape(path.name)):
        evaluate(profile, find_adapters(adapters), copy, stories, LENIENT)


def changed(number: int | None = None, **values: object) -> Callable[[list[str]], list[str]]:
    """A damage: these values in one record, or in all."""

    def change(lines: list[str]) -> list[str]:
        result = []
        for place, line in enumerate(lines):
            new = values if number in (place, None) else {}
            result.append(json.dumps({**json.loads(line), **new}))
        return result

    return change


@pytest.mark.parametrize(
    ("damage", "mended"),
    [
        (lambda lines: [line for line in lines for _ in range(2)], True),  # two without a lock
        (lambda lines: lines[:7], True),  # killed
        (changed(source="odd \ud83d"), True),
        (lambda lines: [], True),
        (lambda lines: lines + changed(text="Another text.")(lines[:1]), False),
        (lambda lines: lines + changed(source="another")(lines[:1]), False),
        (changed(prompt="Another prompt."), False),
        (changed(3, prompt_id="another"), False),
        (changed(3, sample="0"), False),
        (changed(3, text=None), False),
        (changed(3, finished="no"), False),
        (changed(3, tokens="many"), False),
        (changed(3, finished=None), False),
        (lambda lines: [*lines[:3], "[]", *lines[4:]], False),
    ],
)
def test_samples_are_read_once_each_or_the_file_is_named(
    run, copy, profile, adapters, stories, damage, mended
):
    path = samples_of(copy, "ddpo")
    path.write_text("".join(line + "\n" for line in damage(path.read_text().splitlines())))
    models = find_adapters(adapters)
    if mended:
        assert same(evaluate(profile, models, copy, stories, LENIENT), run[0])
        return
    with pytest.raises(CourseError, match=re.escape(path.name)):
        evaluate(profile, models, copy, stories, LENIENT)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_log_probs_that_are_no_numbers_are_not_stored(
    copy, profile, adapters, stories, monkeypatch, value
):
    (path,) = copy.glob("train-*.logp.json")
    path.unlink()
    monkeypatch.setattr(scores, "mean_logps", lambda _m, _t, part: np.full(len(part), value))
    with pytest.raises(CourseError, match="train"):
        evaluate(profile, find_adapters(adapters), copy, stories, LENIENT)
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_model.safetensors", None),
        ("adapter_model.safetensors", b""),
        ("adapter_model.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"),  # no tensors
        ("adapter_config.json", b"[]"),
        ("adapter_config.json", b'{"peft_type": "LORA", "target_modules": "(a+)+$"}'),
    ],
)
def test_a_damaged_adapter_is_refused_before_anything_is_sampled(
    profile, adapters, stories, tmp_path, name, content
):
    shutil.copytree(adapters, tmp_path / "adapters")
    path = tmp_path / "adapters" / "ddpo" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CourseError, match=re.escape(str(path.parent))):
        models = find_adapters(tmp_path / "adapters")
        evaluate(profile, models, tmp_path / "out", stories, LENIENT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", '"int4"'])
def test_a_damaged_number_type_is_refused(profile, adapters, stories, tmp_path, text):
    (tmp_path / "number_type.json").write_text(text)
    auto = replace(profile, dtype="auto")
    with pytest.raises(CourseError, match="number_type"):
        evaluate(auto, find_adapters(adapters), tmp_path, stories, LENIENT)


@pytest.mark.parametrize(
    "record",
    [[], {"kl": []}, {"kl": {"last": 1.0}}, {"kl": {"10": None}}, {"kl": {"10": "2"}}, "broken"],
)
def test_a_damaged_record_does_not_change_the_control_in_silence(tmp_path: Path, record):
    write_json(tmp_path / "ddpo" / "run.json", {"kl": {"30": 5.0}})
    path = tmp_path / "dpo" / "run.json"
    write_json(path, record)
    if record == "broken":
        path.write_text('{"kl": {"10')
    with pytest.raises(CourseError, match=re.escape(str(path))):
        find_adapters(tmp_path)
