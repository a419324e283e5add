"""Sampling: continued runs give the unbroken file, neighbours do not matter, and no foreign file is touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ddpo_utils import CourseError
from ddpo_utils.sampling import DECODING, _fingerprint, read_samples, sample_stories

PROMPTS = pd.DataFrame(
    {
        "prompt_id": [f"p{i}" for i in range(5)],
        "prompt": [
            "Sea.",
            "A clock 🙂 stops",
            "Élodie laughed — and the whole town laughed with her",
            "x",
            "Nobody knows",
        ],
    }
)
FAST = {"samples": 3, "max_new_tokens": 8, "batch_size": 4, "progress": False}


def sample(tiny: tuple[Any, Any], path: Path, **changes: Any) -> pd.DataFrame:
    return sample_stories(*tiny, changes.pop("prompts", PROMPTS), path, **{**FAST, **changes})


def test_the_file_holds_one_record_a_sample_in_order(tiny, tmp_path):
    frame = sample(tiny, tmp_path / "deep" / "samples.jsonl", source="sft")
    assert frame["prompt_id"].tolist() == [p for p in PROMPTS["prompt_id"] for _ in range(3)]
    assert frame["sample"].tolist() == [0, 1, 2] * 5 and (frame["source"] == "sft").all()
    assert set(frame) == {"prompt_id", "prompt", "sample", "source", "text", "tokens", "finished", "run"}
    assert frame["tokens"].between(0, 8).all() and frame["text"].nunique() > 10
    assert (frame["tokens"] == 8).all() or frame["finished"].any()
    pd.testing.assert_frame_equal(frame, read_samples(tmp_path / "deep" / "samples.jsonl"))


def test_a_killed_run_goes_on_and_ends_with_the_unbroken_file(tiny, tmp_path):
    """Cut between batches, inside one, inside a line, before its newline and inside a character of several bytes."""
    whole, path = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    sample(tiny, whole)
    data = whole.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    emoji = data.index("🙂".encode(), ends[3])  # in the second batch
    cuts = {
        "nothing written": 0, "one byte": 1, "inside the first line": 30, "one line": ends[0], "whole batch": ends[3],
        "before a batch's last newline": ends[3] - 1, "inside batch 2": ends[5], "inside a line": ends[5] + 40,
        "inside a character": data.index("—".encode(), ends[6]) + 1, "inside an emoji": emoji + 2,
        "last line": ends[13], "last byte": len(data) - 1, "all of it": len(data),
    }  # fmt: skip
    for what, cut in cuts.items():
        path.write_bytes(data[:cut])
        sample(tiny, path)
        assert path.read_bytes() == data, what


@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_several_processes_share_the_batches_and_end_with_the_same_file(tiny, tmp_path, ranks):
    """One after the other here; 15 samples in 4 batches, so of 9 processes some have nothing to do."""
    whole, path = tmp_path / "whole.jsonl", tmp_path / "shared [1].jsonl"  # brackets mean something to glob
    expected = sample(tiny, whole)
    for rank in reversed(range(ranks)):
        frame = sample(tiny, path, rank=rank, ranks=ranks)
    pd.testing.assert_frame_equal(frame, expected)
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shared [1].jsonl", "whole.jsonl"]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_shared_run_goes_on_with_any_number_of_processes(tiny, tmp_path, monkeypatch, ranks):
    """Two processes are killed, one of them in the middle of a line; whole batches of both are kept."""
    whole, path = tmp_path / "whole.jsonl", tmp_path / "s.jsonl"
    sample(tiny, whole)
    assert len(sample(tiny, path, rank=1, ranks=2)) == 7  # batches 1 and 3 of four
    part = tmp_path / "s.jsonl.2"
    part.write_bytes(part.read_bytes()[:-30])
    generate, calls = tiny[0].generate, []
    monkeypatch.setattr(tiny[0], "generate", lambda **kw: calls.append(1) or generate(**kw))
    for rank in range(ranks):
        sample(tiny, path, rank=rank, ranks=ranks)
    assert len(calls) == 3
    assert path.read_bytes() == whole.read_bytes() and not part.exists()


@pytest.mark.parametrize("left", ["a part that is in the file already", "a file out of order", "a scratch file"])
def test_a_merge_that_was_killed_is_made_good(tiny, tmp_path, monkeypatch, left):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "s.jsonl"
    sample(tiny, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[8:12], *lines[:8], *lines[12:]]) if "order" in left else whole.read_bytes())
    if "part" in left:
        (tmp_path / "s.jsonl.2").write_bytes(b"".join(lines[4:8]) + lines[12][:20])
    if "scratch" in left:
        (tmp_path / "s.jsonl.part0").write_bytes(lines[0])
    monkeypatch.setattr(tiny[0], "generate", None)
    sample(tiny, path)
    assert path.read_bytes() == whole.read_bytes() and not (tmp_path / "s.jsonl.2").exists()


def test_another_process_s_foreign_file_is_refused_too(tiny, tmp_path):
    (tmp_path / "s.jsonl.2").write_text('{"note": 1}\n')
    with pytest.raises(CourseError, match=r"s\.jsonl\.2 holds something else"):
        sample(tiny, tmp_path / "s.jsonl")


def test_the_run_s_name_depends_on_weights_alone_and_not_on_how_they_are_summed():
    torch.manual_seed(0)
    model = torch.nn.Linear(4096, 2048, bias=False)
    model.dtype, before, names = torch.float32, torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            names.add(_fingerprint(model, []))
    finally:
        torch.set_num_threads(before)
    assert len(names) == 1
    with torch.no_grad():
        model.weight[5, 7] = torch.nextafter(model.weight[5, 7], torch.tensor(9.0))
    assert _fingerprint(model, []) not in names
    for dtype in (torch.bfloat16, torch.float64):  # any width of number
        assert _fingerprint(model.to(dtype), []) not in names


def test_a_finished_run_is_read_and_not_sampled_again(tiny, tmp_path, monkeypatch):
    first = sample(tiny, tmp_path / "s.jsonl")
    monkeypatch.setattr(tiny[0], "generate", None)
    pd.testing.assert_frame_equal(sample(tiny, tmp_path / "s.jsonl"), first)


def test_an_exception_in_the_middle_loses_no_whole_batch(tiny, tmp_path, monkeypatch):
    sample(tiny, tmp_path / "whole.jsonl")
    generate, calls = tiny[0].generate, []

    def failing(**inputs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(**inputs)

    monkeypatch.setattr(tiny[0], "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        sample(tiny, tmp_path / "s.jsonl")
    assert len(read_samples(tmp_path / "s.jsonl")) == 8
    sample(tiny, tmp_path / "s.jsonl")
    assert len(calls) == 5  # the two that were missing
    assert (tmp_path / "s.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 43},
        {"samples": 2},
        {"max_new_tokens": 9},
        {"batch_size": 5},
        {"temperature": 0.9},
        {"top_k": 3},
        {"prompts": PROMPTS[::-1]},
        {"prompts": PROMPTS.assign(prompt="another")},
    ],
    ids=str,
)
def test_other_settings_are_refused_and_the_file_is_left_alone(tiny, tmp_path, change):
    path = tmp_path / "s.jsonl"
    sample(tiny, path)
    before = path.read_bytes()
    with pytest.raises(CourseError, match=r"s\.jsonl .*delete it, or sample into another file"):
        sample(tiny, path, **change)
    assert path.read_bytes() == before


def test_another_adapter_or_model_is_refused(tiny, tiny_folder, adapter_folder, tmp_path):
    path = tmp_path / "s.jsonl"
    sample(tiny, path)
    load = lambda: AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)  # noqa: E731
    adapted = PeftModel.from_pretrained(load(), str(adapter_folder))
    with pytest.raises(CourseError, match="delete it"):
        sample((adapted, tiny[1]), path)
    sample((adapted, tiny[1]), tmp_path / "adapted.jsonl")
    with torch.no_grad():
        next(p for n, p in adapted.named_parameters() if "lora_B" in n)[0, 0] += 1e-3
    with pytest.raises(CourseError, match="delete it"):
        sample((adapted, tiny[1]), tmp_path / "adapted.jsonl")
    changed = load()
    with torch.no_grad():
        changed.model.norm.weight[0] += 0.01
    with pytest.raises(CourseError, match="delete it"):
        sample((changed, tiny[1]), path)


def test_the_folder_that_holds_the_model_does_not_matter(tiny, tiny_folder, adapter_folder, tmp_path):
    moved = tmp_path / "elsewhere" / tiny_folder.name
    shutil.copytree(tiny_folder, moved)
    there = AutoModelForCausalLM.from_pretrained(moved, dtype=torch.float32).eval()
    runs = {sample((m, tiny[1]), tmp_path / f"{i}.jsonl")["run"].iloc[0] for i, m in enumerate((tiny[0], there))}
    assert len(runs) == 1
    assert (tmp_path / "0.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"prompt,text\nSea,A story\n",
        b'{"prompt_id": "p0", "text": "a story without a run"}\n',
        b"[1, 2]\n",
        b"3",
        b"a note without a newline",
        b"\xff\xfe binary",
        b"\n",
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(tiny, tmp_path, content):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(CourseError, match="delete it, or sample into another file"):
        sample(tiny, path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines[:5], lines[5][:20] + b"\n", *lines[6:]],  # a line broken off in the middle
        lambda lines: lines[:5] + lines[6:],  # a line missing in the middle
        lambda lines: lines[1:],  # and at the start
        lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]],  # two in the wrong order
    ],
)
def test_a_damaged_file_is_refused_and_nothing_is_lost(tiny, tmp_path, damage):
    path = tmp_path / "s.jsonl"
    sample(tiny, path)
    before = b"".join(damage(path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(before)
    with pytest.raises(CourseError, match="delete it"):
        sample(tiny, path)
    assert path.read_bytes() == before


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
                tiny, path, samples=1, batch_size=batch, top_k=1, max_new_tokens=16, repetition_penalty=penalty
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
    monkeypatch.setattr(model, "generate", lambda input_ids, **kw: torch.cat([input_ids, torch.tensor(new)], dim=1))
    frame = sample(tiny, tmp_path / "s.jsonl", prompts=PROMPTS[:4], samples=1, max_new_tokens=4)
    assert frame["tokens"].tolist() == [2, 4, 0, 3]
    assert frame["finished"].tolist() == [True, False, True, True]
    assert frame["text"].tolist() == [tokenizer.decode(words[:n]).strip() for n in (2, 4, 0, 3)]


def test_the_papers_decoding_is_the_default_and_reaches_generate(tiny, tmp_path, monkeypatch):
    assert DECODING == {"temperature": 1.0, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1}
    seen, generate = SimpleNamespace(), tiny[0].generate
    monkeypatch.setattr(tiny[0], "generate", lambda **kw: seen.__dict__.update(kw) or generate(**kw))
    sample(tiny, tmp_path / "s.jsonl", top_k=7)
    assert (seen.temperature, seen.top_p, seen.top_k, seen.repetition_penalty) == (1.0, 0.95, 7, 1.1)
    assert seen.do_sample is True and seen.max_new_tokens == 8


def test_a_full_gpu_is_said_with_the_way_out(tiny, tmp_path, monkeypatch):
    def full(**inputs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tiny[0], "generate", full)
    with pytest.raises(CourseError, match=r"4 sequences of up to 8 new tokens do not fit .*lower .* sample_batch"):
        sample(tiny, tmp_path / "s.jsonl")


def test_seeds_make_the_samples_and_batches_differ(tiny, tmp_path):
    same = PROMPTS.assign(prompt="Sea.")
    frames = [sample(tiny, tmp_path / f"{i}.jsonl", prompts=same, seed=seed) for i, seed in enumerate((1, 1, 2))]
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
        lines = [json.dumps({"source": name, "text": f"line\u2028{i}"}, ensure_ascii=False) for i in range(2)]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    frame = read_samples([tmp_path / "b", tmp_path / "a"])
    assert frame["source"].tolist() == ["b", "b", "a", "a"] and frame.index.tolist() == [0, 1, 2, 3]


def test_a_broken_off_file_is_named_when_it_is_read(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"text": "a"}\n{"te', encoding="utf-8")
    with pytest.raises(CourseError, match=r"Line 2 of .*s\.jsonl.*sampl"):
        read_samples(tmp_path / "s.jsonl")
