"""The file of a paid run: what it holds is never paid again; its cost is shown before and after."""

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

pytest_plugins = "endpoint_fixtures"


@pytest.mark.parametrize("condition", ["plain", "iterative", "verbalised"])
def test_a_run_broken_off_anywhere_pays_for_the_missing_calls_only(
    teller, sample, tmp_path, condition
):
    form = "<response><text>Sea 🙂 {}</text><probability>0.2</probability></response>"
    teller.answer = lambda body, number: (200, completion(form.format(number) * 3))
    path, k = tmp_path / "s.jsonl", 3 if condition == "verbalised" else 1
    sample(condition=condition, concurrency=1)
    data = path.read_bytes()
    ends = [0] + [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    emoji = data.index("🙂".encode(), ends[6]) + 2
    for cut in (0, 12, ends[1], ends[5] + 40, emoji, len(data) - 1, len(data)):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n") // k  # calls that are stored
        before = len(teller.requests)
        frame = sample(condition=condition, concurrency=1)
        assert len(teller.requests) - before == 15 // k - whole, cut
        assert path.read_bytes()[: ends[whole * k]] == data[: ends[whole * k]]
        assert len(frame) == len(read_samples(path)) == 15
        assert not frame.duplicated(["prompt_id", "sample"]).any()


def test_a_file_of_the_first_edition_is_continued(teller, sample, tmp_path):
    """The digest of its settings was that of their JSON, as it is now."""
    sample()
    assert set(read_samples(tmp_path / "s.jsonl")["run"]) == {"d877cb47c93a9359"}


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"condition": "iterative"},
        {"temperature": 0.9},
        {"top_p": None},
        {"max_tokens": 51},
        {"prompts": PROMPTS.assign(prompt="another")},
    ],
    ids=str,
)
def test_other_settings_are_refused_and_the_file_is_left_alone(teller, sample, tmp_path, change):
    sample()
    before, asked = (tmp_path / "s.jsonl").read_bytes(), len(teller.requests)
    with pytest.raises(CourseError, match=r"s\.jsonl"):
        sample(**change)
    assert (tmp_path / "s.jsonl").read_bytes() == before and len(teller.requests) == asked


def test_more_prompts_and_more_samples_pay_for_what_is_new(teller, sample):
    first = sample(prompts=PROMPTS[1:3], samples=2)
    frame = sample()
    assert len(teller.requests) == 15
    kept = frame[frame["prompt_id"].isin(["p1", "p2"]) & (frame["sample"] < 2)]
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), first)
    assert len(sample(prompts=PROMPTS[:1], samples=1)) == 1 and len(teller.requests) == 15


@pytest.fixture
def keyboard():
    """Ctrl-C as a user's shell has it: pytest-xdist's workers ignore it."""
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


def test_the_estimate_comes_before_the_first_call_and_the_use_after_the_last(
    teller, sample, capsys
):
    shown: list[str] = []

    def refuse(estimate: str) -> bool:
        shown.append(estimate)
        return False

    with pytest.raises(CourseError):
        sample(confirm=refuse, prices=(2.0, 8.0))
    assert not teller.requests and shown[0] in capsys.readouterr().out
    tokens = sum(8 - (-len(SYSTEM) // 4) - (-len(p) // 4) for p in PROMPTS["prompt"]) * 3
    cost = (2 * tokens + 8 * 15 * 50) / 1e6
    for part in ("15 calls", f"{tokens:,} prompt", "750 completion", f"{cost:.4f}"):
        assert part in shown[0]
    sample(confirm=lambda estimate: True, prices=(2.0, 8.0))
    printed = capsys.readouterr().out
    assert "15 calls used 150 prompt tokens and 105 completion tokens (0.0011" in printed
    sample(confirm=lambda estimate: pytest.fail("nothing has to be paid for"))


def test_the_estimate_of_an_iterative_run_bounds_what_its_requests_carry(teller, sample):
    """Stories have exactly the length allowed: the bound holds, and is not loose."""
    teller.answer = lambda body, number: (200, completion("x" * 200))
    shown: list[str] = []
    sample(condition="iterative", confirm=lambda estimate: shown.append(estimate) or True)
    messages = [message for body in teller.requests for message in body["messages"]]
    sent = sum(4 - (-len(message["content"]) // 4) for message in messages)
    assert f"about {sent:,} prompt tokens" in shown[0]


def test_calls_without_a_count_are_reported(teller, sample, capsys):
    teller.answer = lambda body, number: (200, completion("Story", usage=number % 3 > 0))
    frame = sample()
    assert frame["prompt_tokens"].isna().sum() == 5
    assert "5 calls came without a count" in capsys.readouterr().out
