"""Calls: what is received is stored and never paid twice, whatever breaks."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pandas as pd
import pytest
from faults import refusal, sentence
from flaky_proxy import FlakyProxy
from teller import KEY, PROMPTS, completion

from ddpo_utils import CourseError
from ddpo_utils.models.prompting import SYSTEM
from ddpo_utils.models.sampling import read_samples

pytest_plugins = "answer_fixtures"


def reply(content: Any = "Once", reason: Any = "stop", **changes: Any) -> tuple[int, Any]:
    return 200, completion(content, reason) | changes


def error(status: int, message: str, code: Any = None) -> tuple[int, Any]:
    return status, {"error": {"message": message, "code": code}}


PARTS = [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "On"}, {"text": "ce"}]
DEEP = "[" * 400 + "]" * 400


@pytest.mark.parametrize(
    ("answer", "text", "finished", "tokens"),
    [
        (reply(reason="MAX_TOKENS"), "Once", False, 7),
        (reply(None, "content_filter"), "", False, 7),
        (reply(" Once \n", "eos_token"), "Once", True, 7),
        (reply(reason=None, error=None), "Once", True, 7),
        (reply(PARTS), "Once", True, 7),
        (reply(["On", {"type": "text", "text": {"value": "ce"}}]), "Once", True, 7),
        (reply("Or not?</think>\n\nOnce"), "Once", True, 7),
        (reply("<thinking>No.</thinking>\n<thinking>Yes.</thinking>Once"), "Once", True, 7),
        (reply("<think>never ends"), "", True, 7),
        (reply("Once \ud83d"), "Once \ufffd", True, 7),
        (reply(usage=None), "Once", True, None),
        (reply(usage={"completion_tokens": int("9" * 400)}), "Once", True, None),
        (reply(usage=[1], logprobs=json.loads(DEEP)), "Once", True, None),
        (error(400, "The prompt was filtered", "content_filter"), "", False, 0),
        (error(500, "blocked by guardrail"), "", False, 0),
        (error(422, "I do not like this prompt", 1301), "", False, 0),
        (error(200, "inappropriate content", "data_inspection_failed"), "", False, 0),
    ],
)
def test_an_answer_of_any_kind_is_stored_as_what_it_is(
    teller, sample, capsys, answer, text, finished, tokens
):
    teller.answer = lambda body, number: answer if "Sea." in str(body) else reply("x")
    frame = sample(samples=1, concurrency=1, retries=0)
    first = frame.iloc[0]
    assert (first["text"], first["finished"]) == (text, finished) and len(frame) == 5
    if tokens is None:
        assert pd.isna(first["tokens"])
        assert "1 calls came without a count" in capsys.readouterr().out
    else:
        assert first["tokens"] == first["completion_tokens"] == tokens
    asked = len(teller.requests)
    sample(samples=1, concurrency=1, retries=0)
    assert len(teller.requests) == asked  # nothing is asked for twice


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (error(400, "max_tokens is not supported: use max_completion_tokens"), "--limit-name"),
        (error(400, "Your credit balance is too low"), "credit"),
        (reply(None, "error", error={"message": "\x1b[31mhot", "code": 400}), "hot"),
        ((200, "<html>Sign in</html>"), "chat completion"),
        ((200, {"choices": []}), "chat completion"),
        ((200, []), "chat completion"),
        ((200, DEEP * 300), "chat completion"),
        (reply(7), "chat completion"),
    ],
)
def test_what_is_a_fault_of_all_calls_is_one_sentence_and_stores_nothing(
    teller, sample, tmp_path, answer, named
):
    teller.answer = lambda body, number: answer
    message = refusal(sample, retries=0, concurrency=1)
    assert named in message and message.isprintable() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [429, "503", "overloaded", None])
def test_an_error_inside_an_answer_is_repeated_like_its_status(teller, sample, code):
    hidden = error(200, "Rate limit, try again", code)
    teller.answer = lambda body, number: reply() if number else hidden
    frame = sample(prompts=PROMPTS[:1], samples=1)
    assert frame["text"].tolist() == ["Once"] and frame["repeats"].tolist() == [1]


def test_every_fault_is_repeated_and_only_cut_answers_are_paid_twice(teller, sample):
    faults = ["429", "429 retry-after", "500", "503", "drop", "cut", "hang", None, "cut", "drop"]
    with FlakyProxy(teller.url, faults) as proxy:
        frame = sample(base_url=proxy.url, timeout=3.0, concurrency=5)
    received = [answer["choices"][0]["message"]["content"] for answer in proxy.delivered]
    assert sorted(frame["text"]) == sorted(received)
    assert proxy.answered == len(teller.requests) == 15 + 2  # no client can ask for a lost answer
    assert frame["repeats"].sum() == 9


def test_the_number_of_calls_at_once_is_kept(teller, sample):
    teller.answer = lambda body, number: (time.sleep(0.05), (200, completion("Story")))[1]
    with FlakyProxy(teller.url) as proxy:
        sample(base_url=proxy.url, concurrency=3)
    assert proxy.busiest == 3


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_a_call_that_fails_for_good_is_reported_and_earlier_answers_are_kept(
    teller, sample, monkeypatch, tmp_path, status
):
    """The server repeats the key in its error, as some do."""
    monkeypatch.setenv("MY_KEY", KEY)
    fault = error(status, f"what is {KEY}? {'x' * 130} {KEY}", "1")
    teller.answer = lambda body, number: reply(f"Story {number}") if number < 4 else fault
    with pytest.raises(CourseError, match=str(status)) as caught:
        # which of two at once is refused first decides how many are in a row
        sample(key_variable="MY_KEY", concurrency=1 if status == 400 else 2, retries=0)
    assert "stored" in sentence(caught) and KEY[:12] not in str(caught.value)
    assert len(read_samples(tmp_path / "s.jsonl")) == 4
    before = len(teller.requests)
    assert before <= (15 if status == 400 else 6)  # no further calls are paid
    teller.answer = lambda body, number: reply(f"Late {number}")
    frame = sample(key_variable="MY_KEY")
    assert len(teller.requests) - before == 11
    assert frame["text"].str.startswith("Story").sum() == 4


@pytest.mark.parametrize("condition", ["plain", "iterative", "verbalised"])
def test_a_run_broken_off_anywhere_pays_for_the_missing_calls_only(
    teller, sample, tmp_path, condition
):
    form = "<response><text>Sea 🙂 {}</text><probability>0.2</probability></response>"
    teller.answer = lambda body, number: reply(form.format(number) * 3)
    path, k = tmp_path / "s.jsonl", 3 if condition == "verbalised" else 1
    sample(condition=condition, concurrency=1)
    data = path.read_bytes()
    ends = [0] + [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for cut in (12, ends[5] + 40, len(data)):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n") // k  # calls that are stored
        before = len(teller.requests)
        frame = sample(condition=condition, concurrency=1)
        assert len(teller.requests) - before == 15 // k - whole, cut
        assert path.read_bytes()[: ends[whole * k]] == data[: ends[whole * k]]
        assert len(frame) == len(read_samples(path)) == 15


def test_other_settings_are_refused_and_more_samples_pay_for_what_is_new(teller, sample, tmp_path):
    first = sample(prompts=PROMPTS[1:3], samples=2)
    before, asked = (tmp_path / "s.jsonl").read_bytes(), len(teller.requests)
    changes = [
        {"model": "n"},
        {"condition": "iterative"},
        {"temperature": 0.9},
        {"top_p": None},
        {"max_tokens": 51},
        {"prompts": PROMPTS.assign(prompt="another")},
    ]
    for change in changes:
        assert "s.jsonl" in refusal(sample, **change)
        assert (tmp_path / "s.jsonl").read_bytes() == before and len(teller.requests) == asked
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
        time.sleep(0.1)
        return reply(f"Story {number}")

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
    refusal(sample, confirm=lambda estimate: bool(shown.append(estimate)), prices=(2.0, 8.0))
    assert not teller.requests and shown[0] in capsys.readouterr().out
    tokens = sum(8 - (-len(SYSTEM) // 4) - (-len(p) // 4) for p in PROMPTS["prompt"]) * 3
    cost = (2 * tokens + 8 * 15 * 50) / 1e6
    for part in ("15 calls", f"{tokens:,} prompt", "750 completion", f"{cost:.4f}"):
        assert part in shown[0]
    sample(confirm=lambda estimate: True, prices=(2.0, 8.0))
    printed = capsys.readouterr().out
    assert "15 calls used 150 prompt tokens and 105 completion tokens (0.0011" in printed
    sample(confirm=lambda estimate: pytest.fail("nothing has to be paid for"))
