"""The file of a paid run: what is there is never paid for again; its cost is said before and after."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pandas as pd
import pytest
from teller import PROMPTS, completion

from ddpo_utils import CourseError
from ddpo_utils.models.prompting import SYSTEM
from ddpo_utils.models.sampling import read_samples
from ddpo_utils.storage import journal

pytest_plugins = "endpoint_fixtures"


@pytest.mark.parametrize("condition", ["plain", "iterative", "verbalised"])
def test_a_run_broken_off_anywhere_pays_for_the_missing_calls_alone(
    teller, sample, tmp_path, condition
):
    form = "<response><text>Sea 🙂 {}</text><probability>0.2</probability></response>"
    teller.answer = lambda body, number: (200, completion(form.format(number) * 3))
    path, k = tmp_path / "s.jsonl", 3 if condition == "verbalised" else 1
    sample(condition=condition, concurrency=1)
    data = path.read_bytes()
    ends = [0] + [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    emoji = data.index("🙂".encode(), ends[6]) + 2
    for cut in (0, 1, 12, ends[1] - 1, ends[1], ends[5] + 40, emoji, len(data) - 1, len(data)):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n") // k  # calls that are there
        before = len(teller.requests)
        frame = sample(condition=condition, concurrency=1)
        assert len(teller.requests) - before == 15 // k - whole, cut
        assert path.read_bytes()[: ends[whole * k]] == data[: ends[whole * k]]
        assert (
            len(frame) == len(read_samples(path)) == 15
            and not frame.duplicated(["prompt_id", "sample"]).any()
        )


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n", "source": "m plain"},
        {"condition": "iterative", "source": "m plain"},
        {"temperature": 0.9},
        {"top_p": None},
        {"max_tokens": 51},
        {"source": "x"},
        {"prompts": PROMPTS.assign(prompt="another")},
    ],
    ids=str,
)
def test_other_settings_are_refused_and_the_file_is_left_alone(teller, sample, tmp_path, change):
    sample()
    before, asked = (tmp_path / "s.jsonl").read_bytes(), len(teller.requests)
    with pytest.raises(CourseError, match=r"s\.jsonl .*delete it, or sample into another file"):
        sample(**change)
    assert (tmp_path / "s.jsonl").read_bytes() == before and len(teller.requests) == asked


@pytest.mark.parametrize(
    "content", [b"My diary\n", b'{"note": 1}\n', b"no newline", b"[1]\n", b"\xff\xfe\n", b"\n"]
)
def test_a_foreign_file_is_refused(teller, sample, tmp_path, content):
    (tmp_path / "s.jsonl").write_bytes(content)
    with pytest.raises(CourseError, match="something else"):
        sample()
    assert (tmp_path / "s.jsonl").read_bytes() == content and not teller.requests


def test_more_prompts_and_more_samples_pay_for_what_is_new(teller, sample):
    first = sample(prompts=PROMPTS[1:3], samples=2)
    frame = sample()
    assert len(teller.requests) == 15
    kept = frame[frame["prompt_id"].isin(["p1", "p2"]) & (frame["sample"] < 2)].reset_index(
        drop=True
    )
    pd.testing.assert_frame_equal(kept, first)
    assert len(sample(prompts=PROMPTS[:1], samples=1)) == 1 and len(teller.requests) == 15


@pytest.fixture
def keyboard():
    """Ctrl-C as a user's shell has it: pytest-xdist's workers do not heed it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_stop_from_the_keyboard_stores_what_is_under_way(teller, sample, tmp_path, keyboard):
    def answer(body: dict[str, Any], number: int) -> tuple[int, Any]:
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.1)
        return 200, completion(f"Story {number}")

    teller.answer = answer
    with pytest.raises(KeyboardInterrupt):
        sample(concurrency=3)
    made = len(teller.requests)
    assert 6 <= made <= 9 and len(read_samples(tmp_path / "s.jsonl")) == made
    sample()
    assert len(teller.requests) == 15


def test_a_full_disk_breaks_no_line(teller, sample, tmp_path, monkeypatch):
    """The file may grow to 1,000 bytes: what does not fit is taken back whole, and the next run goes on behind it."""
    write, path = journal.os.fsync, tmp_path / "s.jsonl"

    def full(number: int) -> None:
        if path.stat().st_size > 1000:
            raise OSError(28, "No space left on device", str(path))
        write(number)

    with monkeypatch.context() as small, pytest.raises(OSError, match="No space"):
        small.setattr(journal.os, "fsync", full)
        sample(concurrency=2)
    data = path.read_bytes()
    assert 0 < len(data) <= 1000 and data.endswith(b"\n")
    stored, before = len(read_samples(path)), len(teller.requests)
    assert len(sample()) == 15 and len(teller.requests) - before == 15 - stored


def test_two_processes_do_not_pay_for_one_file(teller, sample, tmp_path):
    begun, finish, other = threading.Event(), threading.Event(), threading.Thread(target=sample)
    teller.answer = lambda body, number: (
        begun.set() or (finish.wait(10) and (200, completion("Story")))
    )
    other.start()
    assert begun.wait(10)
    with pytest.raises(CourseError, match="Another process is sampling into"):
        sample()
    finish.set()
    other.join()
    assert len(teller.requests) == 15 and len(read_samples(tmp_path / "s.jsonl")) == 15


def test_the_estimate_stands_before_the_first_call_and_the_use_after_the_last(
    teller, sample, capsys
):
    seen: list[Any] = []
    with pytest.raises(CourseError, match="Nothing was sent"):
        sample(confirm=lambda estimate: seen.append(estimate) or False, prices=(2.0, 8.0))
    assert not teller.requests
    prompt = sum(8 - (-len(SYSTEM) // 4) - (-len(p) // 4) for p in PROMPTS["prompt"]) * 3
    assert (seen[0].calls, seen[0].prompt_tokens, seen[0].completion_tokens) == (
        15,
        prompt,
        15 * 50,
    )
    assert seen[0].cost == pytest.approx((2 * prompt + 8 * 750) / 1e6)
    said = capsys.readouterr().out
    assert "15 calls to make; estimate" in said and f"{seen[0].cost:.4f}" in said
    sample(confirm=lambda estimate: True, prices=(2.0, 8.0))
    assert (
        "15 calls used 150 prompt tokens and 105 completion tokens, which cost 0.0011"
        in capsys.readouterr().out
    )
    sample(confirm=lambda estimate: pytest.fail("there is nothing to agree to"))


def test_a_tokenizer_counts_where_one_is_given(sample):
    seen: list[Any] = []
    sample(
        confirm=lambda estimate: seen.append(estimate) or True,
        tokenizer=lambda text: {"input_ids": text.split()},
    )
    assert (
        seen[0].prompt_tokens
        == sum(8 + len(SYSTEM.split()) + len(p.split()) for p in PROMPTS["prompt"]) * 3
    )


def test_the_estimate_of_an_iterative_run_bounds_what_its_requests_carry(teller, sample, capsys):
    """Stories of exactly the length allowed, in the estimate's own measure: the bound holds, and is not loose."""
    teller.answer = lambda body, number: (200, completion("x" * 200))
    seen: list[Any] = []
    sample(condition="iterative", confirm=lambda estimate: seen.append(estimate) or True)
    sent = sum(4 - (-len(m["content"]) // 4) for body in teller.requests for m in body["messages"])
    assert 0.75 * sent < seen[0].prompt_tokens <= sent * 1.02


def test_an_endpoint_that_does_not_count_is_said_to_be_uncounted(teller, sample, capsys):
    teller.answer = lambda body, number: (200, completion("Story", usage=number % 3 > 0))
    frame = sample()
    assert frame["prompt_tokens"].isna().sum() == 5
    assert (
        "15 calls used 100 prompt tokens and 70 completion tokens; 5 calls came without a count"
        in capsys.readouterr().out
    )
