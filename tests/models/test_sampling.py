"""Sampling: what is generated, read off the tokens and kept, whoever the neighbours are."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from sampled import PROMPTS, sample

from ddpo_utils import CourseError
from ddpo_utils.models.sampling import DECODING, read_samples


def test_the_file_holds_one_record_a_sample_in_order(tiny, tmp_path):
    frame = sample(tiny, tmp_path / "deep" / "samples.jsonl", source="sft")
    assert frame["prompt_id"].tolist() == [p for p in PROMPTS["prompt_id"] for _ in range(3)]
    assert frame["sample"].tolist() == [0, 1, 2] * 5 and (frame["source"] == "sft").all()
    assert set(frame) == {
        "prompt_id",
        "prompt",
        "sample",
        "source",
        "text",
        "tokens",
        "finished",
        "run",
    }
    assert frame["tokens"].between(0, 8).all() and frame["text"].nunique() > 10
    assert (frame["tokens"] == 8).all() or frame["finished"].any()
    pd.testing.assert_frame_equal(frame, read_samples(tmp_path / "deep" / "samples.jsonl"))


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_a_prompt_s_result_does_not_depend_on_its_neighbours(tiny, tmp_path, pad_is_eos):
    """Greedy decoding (top_k = 1): alone, beside shorter and beside longer prompts."""
    tokenizer = tiny[1]
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    for penalty in (1.0, 1.1):
        texts = []
        for batch in (1, 2, 5):
            path = tmp_path / f"{penalty}-{batch}.jsonl"
            frame = sample(
                tiny,
                path,
                samples=1,
                batch_size=batch,
                top_k=1,
                max_new_tokens=16,
                repetition_penalty=penalty,
            )
            texts.append(list(zip(frame["text"], frame["tokens"], frame["finished"], strict=True)))
        assert texts[0] == texts[1] == texts[2]
        assert len(set(texts[0])) > 1


def test_padding_is_on_the_left_whatever_the_tokenizer_says(tiny, tmp_path):
    first = sample(tiny, tmp_path / "left.jsonl", top_k=1)
    tiny[1].padding_side = "right"
    pd.testing.assert_frame_equal(sample(tiny, tmp_path / "right.jsonl", top_k=1), first)


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
    assert DECODING == {"temperature": 1.0, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1}
    seen, generate = SimpleNamespace(), tiny[0].generate
    monkeypatch.setattr(
        tiny[0], "generate", lambda **kw: seen.__dict__.update(kw) or generate(**kw)
    )
    sample(tiny, tmp_path / "s.jsonl", top_k=7)
    assert (seen.temperature, seen.top_p, seen.top_k, seen.repetition_penalty) == (
        1.0,
        0.95,
        7,
        1.1,
    )
    assert seen.do_sample is True and seen.max_new_tokens == 8


def test_a_full_gpu_is_said_with_the_way_out(tiny, tmp_path, monkeypatch):
    def full(**inputs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tiny[0], "generate", full)
    with pytest.raises(
        CourseError, match=r"4 sequences of up to 8 new tokens do not fit .*lower .* sample_batch"
    ):
        sample(tiny, tmp_path / "s.jsonl")


def test_seeds_make_the_samples_and_batches_differ(tiny, tmp_path):
    same = PROMPTS.assign(prompt="Sea.")
    frames = [
        sample(tiny, tmp_path / f"{i}.jsonl", prompts=same, seed=seed)
        for i, seed in enumerate((1, 1, 2))
    ]
    assert frames[0]["text"].tolist() == frames[1]["text"].tolist() != frames[2]["text"].tolist()
    assert frames[0]["text"].iloc[:4].tolist() != frames[0]["text"].iloc[4:8].tolist()


@pytest.mark.parametrize("training", [True, False])
def test_the_model_s_mode_is_put_back(tiny, tmp_path, training):
    model = tiny[0].train(training)
    sample(tiny, tmp_path / "s.jsonl", prompts=PROMPTS[:1], samples=1)
    assert model.training is training


def test_nothing_to_sample_and_nothing_to_read_are_said(tiny, tmp_path):
    for change in ({"samples": 0}, {"prompts": PROMPTS[:0]}):
        with pytest.raises(CourseError, match="at least one"):
            sample(tiny, tmp_path / "s.jsonl", **change)
    with pytest.raises(CourseError, match="prompt_id occurs twice"):
        sample(tiny, tmp_path / "s.jsonl", prompts=PROMPTS.assign(prompt_id="p"))
    with pytest.raises(CourseError, match=r"no samples at .*none\.jsonl"):
        read_samples(tmp_path / "none.jsonl")


def test_several_files_are_read_as_one_frame_in_order(tmp_path):
    for name in "ab":
        lines = [
            json.dumps({"source": name, "text": f"line\u2028{i}"}, ensure_ascii=False)
            for i in range(2)
        ]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    frame = read_samples([tmp_path / "b", tmp_path / "a"])
    assert frame["source"].tolist() == ["b", "b", "a", "a"] and frame.index.tolist() == [0, 1, 2, 3]


def test_a_broken_off_file_is_named_when_it_is_read(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"text": "a"}\n{"te', encoding="utf-8")
    with pytest.raises(
        CourseError,
        match=r"Line 2 of .*s\.jsonl is broken off: run the sampling that writes it again",
    ):
        read_samples(tmp_path / "s.jsonl")
    (tmp_path / "s.jsonl").write_text('{"text": "a"}\nAnd so on.\n', encoding="utf-8")
    with pytest.raises(CourseError, match=r"Line 2 of .*s\.jsonl is no JSON object"):
        read_samples(tmp_path / "s.jsonl")
