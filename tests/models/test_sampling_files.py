"""Files of samples: continued runs give the unbroken one, and no foreign file is touched."""

from __future__ import annotations

import shutil
from typing import Any

import pandas as pd
import pytest
import torch
from peft import PeftModel
from sampled import PROMPTS, sample
from transformers import AutoModelForCausalLM

from ddpo_utils import CourseError
from ddpo_utils.models.sampling import _fingerprint, read_samples


def test_a_killed_run_goes_on_and_ends_with_the_unbroken_file(tiny, tmp_path):
    """Cut between batches, inside one, inside a line, before its newline and inside a character of several bytes."""
    whole, path = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    sample(tiny, whole)
    data = whole.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    emoji = data.index("🙂".encode(), ends[3])  # in the second batch
    cuts = {
        "nothing written": 0,
        "one byte": 1,
        "inside the first line": 30,
        "one line": ends[0],
        "whole batch": ends[3],
        "before a batch's last newline": ends[3] - 1,
        "inside batch 2": ends[5],
        "inside a line": ends[5] + 40,
        "inside a character": data.index("—".encode(), ends[6]) + 1,
        "inside an emoji": emoji + 2,
        "last line": ends[13],
        "last byte": len(data) - 1,
        "all of it": len(data),
    }
    for what, cut in cuts.items():
        path.write_bytes(data[:cut])
        sample(tiny, path)
        assert path.read_bytes() == data, what


@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_several_processes_share_the_batches_and_end_with_the_same_file(tiny, tmp_path, ranks):
    """One after the other here; 15 samples in 4 batches, so of 9 processes some have nothing to do."""
    whole, path = (
        tmp_path / "whole.jsonl",
        tmp_path / "shared [1].jsonl",
    )  # brackets mean something to glob
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


@pytest.mark.parametrize(
    "left", ["a part that is in the file already", "a file out of order", "a scratch file"]
)
def test_a_merge_that_was_killed_is_made_good(tiny, tmp_path, monkeypatch, left):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "s.jsonl"
    sample(tiny, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        b"".join([*lines[8:12], *lines[:8], *lines[12:]]) if "order" in left else whole.read_bytes()
    )
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
    load = lambda: AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
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


def test_the_folder_that_holds_the_model_does_not_matter(
    tiny, tiny_folder, adapter_folder, tmp_path
):
    moved = tmp_path / "elsewhere" / tiny_folder.name
    shutil.copytree(tiny_folder, moved)
    there = AutoModelForCausalLM.from_pretrained(moved, dtype=torch.float32).eval()
    runs = {
        sample((m, tiny[1]), tmp_path / f"{i}.jsonl")["run"].iloc[0]
        for i, m in enumerate((tiny[0], there))
    }
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
        lambda lines: [
            *lines[:5],
            lines[5][:20] + b"\n",
            *lines[6:],
        ],  # a line broken off in the middle
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
