"""Sampling: what is generated is read off the tokens and stored; continued runs end the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from faults import refusal
from peft import PeftModel
from teller import PROMPTS
from transformers import AutoModelForCausalLM

from ddpo_utils import CourseError
from ddpo_utils.models.sampling import DECODING, fingerprint, read_samples, sample_stories

FAST = {"samples": 3, "max_new_tokens": 8, "batch_size": 4}


def sample(tiny: tuple[Any, Any], path: Path, **changes: Any) -> pd.DataFrame:
    return sample_stories(*tiny, changes.pop("prompts", PROMPTS), path, **{**FAST, **changes})


def test_the_file_holds_one_record_a_sample_in_order(tiny, tmp_path):
    tiny[0].train()
    frame = sample(tiny, tmp_path / "deep" / "samples.jsonl", source="sft")
    assert tiny[0].training  # the mode is put back
    assert frame["prompt_id"].tolist() == [p for p in PROMPTS["prompt_id"] for _ in range(3)]
    assert frame["sample"].tolist() == [0, 1, 2] * 5 and (frame["source"] == "sft").all()
    columns = ["prompt_id", "prompt", "sample", "source", "text", "tokens", "finished", "run"]
    assert list(frame) == columns
    assert frame["tokens"].between(0, 8).all() and frame["text"].nunique() > 10
    pd.testing.assert_frame_equal(frame, read_samples(tmp_path / "deep" / "samples.jsonl"))


@pytest.mark.parametrize("penalty", [1.0, 1.1])
@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_a_prompts_result_does_not_depend_on_its_neighbours(tiny, tmp_path, pad_is_eos, penalty):
    """Greedy decoding (top_k = 1): alone, beside shorter and beside longer prompts."""
    if pad_is_eos:
        tiny[1].pad_token = tiny[1].eos_token
    greedy = {"samples": 1, "top_k": 1, "max_new_tokens": 16, "repetition_penalty": penalty}
    texts = []
    for batch in (1, 2, 5):
        frame = sample(tiny, tmp_path / f"{batch}.jsonl", batch_size=batch, **greedy)
        texts.append(frame[["text", "tokens", "finished"]].values.tolist())
        tiny[1].padding_side = "right"  # a batch is padded on the left all the same
    assert texts[0] == texts[1] == texts[2] and len(set(map(str, texts[0]))) > 1


@pytest.mark.parametrize("stops", [2, [2, 9]])
def test_lengths_and_ends_are_read_off_the_tokens(tiny, tmp_path, monkeypatch, stops):
    model, tokenizer = tiny
    model.generation_config.eos_token_id = stops
    words = tokenizer("light out at sea again", add_special_tokens=False)["input_ids"]
    new = [
        [words[0], words[1], 2, 0],  # ended after 2
        words[:4],  # cut at the limit
        [2, 0, 0, 0],  # empty
        [words[0], words[1], words[2], 2],  # ended on the last token allowed
    ]
    monkeypatch.setattr(
        model, "generate", lambda input_ids, **kw: torch.cat([input_ids, torch.tensor(new)], dim=1)
    )
    frame = sample(tiny, tmp_path / "s.jsonl", prompts=PROMPTS[:4], samples=1, max_new_tokens=4)
    assert frame["tokens"].tolist() == [2, 4, 0, 3]
    assert frame["finished"].tolist() == [True, False, True, True]
    assert frame["text"].tolist() == [tokenizer.decode(words[:n]).strip() for n in (2, 4, 0, 3)]


def test_the_papers_decoding_is_the_default_and_reaches_generate(tiny, tmp_path, monkeypatch):
    paper = {"temperature": 1.0, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1}
    assert paper == DECODING
    seen, generate = {}, tiny[0].generate
    monkeypatch.setattr(tiny[0], "generate", lambda **kw: seen.update(kw) or generate(**kw))
    sample(tiny, tmp_path / "s.jsonl", top_k=7)
    expected = {**paper, "top_k": 7, "do_sample": True, "max_new_tokens": 8}
    assert expected.items() <= seen.items() and "min_p" not in seen


def test_seeds_make_the_samples_and_batches_differ(tiny, tmp_path):
    same, texts = PROMPTS.assign(prompt="Sea."), []
    for number, seed in enumerate((1, 1, 2)):
        frame = sample(tiny, tmp_path / f"{number}.jsonl", prompts=same, seed=seed)
        texts.append(frame["text"].tolist())
    assert texts[0] == texts[1] != texts[2] and texts[0][:4] != texts[0][4:8]


RECORD = {"prompt_id": "a", "prompt": "Sea.", "sample": 0, "source": "m", "text": "x"}


def write(path: Path, *changes: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(RECORD | change) + "\n" for change in changes))
    return path


def test_samples_of_several_files_are_one_frame_and_a_repeated_record_counts_once(tmp_path):
    first = write(tmp_path / "b", {"source": "b"}, {"sample": 1, "text": "\ud83d"}, {"source": "b"})
    second = write(tmp_path / "a", {}, {"prompt_id": 1, "prompt": "Lake"}, {"seed": 2})
    frame = read_samples([first, second])
    assert frame["text"].tolist() == ["x", "\ufffd", "x", "x", "x"]
    assert frame["source"].tolist() == ["b", "m", "m", "m", "m"]
    assert frame["prompt_id"].tolist() == ["a", "a", "a", 1, "a"]
    assert frame.index.tolist() == [*range(5)]


@pytest.mark.parametrize(
    "change",
    [
        {"text": None},
        {"text": "another"},
        {"prompt": "Lake"},
        {"prompt_id": None},
        {"prompt_id": True},
        {"sample": "0"},
        {"sample": 1.5},
        {"source": 7},
        {"finished": "yes"},
    ],
    ids=str,
)
def test_a_damaged_sample_is_named(tmp_path, change):
    message = refusal(read_samples, write(tmp_path / "s.jsonl", {}, change))
    assert f"Record 2 of {tmp_path / 's.jsonl'}" in message
    (tmp_path / "s.jsonl").write_text('{"prompt_id": "a"}')
    assert "Record 1" in refusal(read_samples, tmp_path / "s.jsonl")


def test_a_run_broken_off_anywhere_ends_with_the_whole_file(tiny, tmp_path, monkeypatch):
    """Cut in a batch, shared by two processes, stopped by a full GPU."""
    whole, path = tmp_path / "whole.jsonl", tmp_path / "s.jsonl"
    expected = sample(tiny, whole)
    data = whole.read_bytes()
    path.write_bytes(b"".join(data.splitlines(keepends=True)[:6]) + b'{"prompt_id"')
    pd.testing.assert_frame_equal(sample(tiny, path), expected)
    assert path.read_bytes() == data
    path.unlink()
    assert len(sample(tiny, path, rank=1, ranks=2)) == 7  # batches 1 and 3 of four
    generate, calls = tiny[0].generate, []

    def failing(**inputs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return generate(**inputs)

    monkeypatch.setattr(tiny[0], "generate", failing)
    with pytest.raises(CourseError, match="sample_batch"):
        sample(tiny, path, rank=0, ranks=2)
    pd.testing.assert_frame_equal(sample(tiny, path, rank=0, ranks=2), expected)
    assert len(calls) == 3 and path.read_bytes() == data
    monkeypatch.setattr(tiny[0], "generate", None)
    pd.testing.assert_frame_equal(sample(tiny, path), expected)  # nothing is sampled again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.jsonl", "whole.jsonl"]


def test_other_settings_are_refused_and_the_file_is_left_alone(tiny, tmp_path):
    path = tmp_path / "s.jsonl"
    sample(tiny, path)
    before = path.read_bytes()
    changes = [
        {"seed": 43},
        {"samples": 2},
        {"max_new_tokens": 9},
        {"temperature": 0.9},
        {"prompts": PROMPTS[::-1]},
        {"prompts": PROMPTS.assign(prompt="another")},
    ]
    for change in changes:
        with pytest.raises(CourseError, match=r"s\.jsonl"):
            sample(tiny, path, **change)
        assert path.read_bytes() == before


def test_the_digest_sees_the_smallest_change_of_a_weight_of_any_width():
    model = torch.nn.Linear(64, 32, bias=False)
    digests = []
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        model.to(dtype).dtype = dtype
        digests.append(fingerprint(model, []))
        with torch.no_grad():
            model.weight[5, 7] = torch.nextafter(model.weight[5, 7], torch.tensor(9.0, dtype=dtype))
        digests.append(fingerprint(model, []))
    assert len(set(digests)) == 6


def test_the_digest_tells_adapters_apart_but_not_folders(
    tiny, tiny_folder, adapter_folder, tmp_path
):
    moved = shutil.copytree(tiny_folder, tmp_path / "elsewhere" / tiny_folder.name)
    copy = AutoModelForCausalLM.from_pretrained(moved, dtype=torch.float32)
    digests = [fingerprint(tiny[0], [])]
    assert fingerprint(copy, []) == digests[0]
    adapted = PeftModel.from_pretrained(copy, str(adapter_folder))
    digests.append(fingerprint(adapted, []))
    with torch.no_grad():
        next(p for n, p in adapted.named_parameters() if "lora_B" in n)[0, 0] += 1e-3
    digests.append(fingerprint(adapted, []))
    assert len(set(digests)) == 3
