"""Endpoints: what is received is stored and never paid twice, whatever breaks; keys stay secret."""

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
from ddpo_utils.models.endpoint import Endpoint
from ddpo_utils.models.prompting import SYSTEM, request
from ddpo_utils.models.sampling import read_samples

pytest_plugins = "answer_fixtures"


def test_the_file_holds_one_record_a_sample(teller, sample, tmp_path):
    frame = sample()
    assert frame["prompt_id"].tolist() == [p for p in PROMPTS["prompt_id"] for _ in range(3)]
    assert frame["sample"].tolist() == [0, 1, 2] * 5
    assert (frame["source"] == "m plain").all() and frame["finished"].all()
    assert set(frame["text"]) == {f"Story {n} 🙂" for n in range(15)}
    assert (frame["tokens"] == 7).all()
    assert set(frame["run"]) == {"d877cb47c93a9359"}  # files of the first edition are continued
    stored = read_samples(tmp_path / "s.jsonl").sort_values(["prompt_id", "sample"])
    pd.testing.assert_frame_equal(frame, stored.reset_index(drop=True))
    for body in teller.requests:
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 0.95, 50)
        assert body["messages"][0] == {"role": "system", "content": SYSTEM}
    asked = sorted(body["messages"][1]["content"] for body in teller.requests)
    assert asked == sorted([*PROMPTS["prompt"]] * 3)


def test_an_iterative_request_carries_the_earlier_stories_and_the_estimate_bounds_them(
    teller, sample
):
    """Stories have exactly the length allowed: the bound holds, and is not loose."""
    teller.answer = lambda body, number: (200, completion(f"{number}".ljust(200, "x")))
    shown: list[str] = []
    frame = sample(condition="iterative", confirm=lambda estimate: shown.append(estimate) or True)
    texts = frame.groupby("prompt_id")["text"].agg(list)
    expected = [
        request(prompt, "iterative", earlier=texts[prompt_id][:n])
        for prompt_id, prompt in PROMPTS.itertuples(index=False)
        for n in range(3)
    ]
    assert sorted(body["messages"][1]["content"] for body in teller.requests) == sorted(expected)
    assert all(text in expected[2] for text in texts["p0"][:2])
    messages = [message for body in teller.requests for message in body["messages"]]
    sent = sum(4 - (-len(message["content"]) // 4) for message in messages)
    assert f"about {sent:,} prompt tokens" in shown[0]


def test_a_verbalised_call_gives_all_stories_and_counts_what_cannot_be_read(teller, sample):
    form = "<response><text>One</text><probability>0.2</probability></response>"
    answers = [form * 3, form * 5, form, "I would rather not.", form + "<response><text>Cut in"]

    def answer(body: dict[str, Any], number: int) -> tuple[int, Any]:
        return 200, completion(answers[number], "length" if number == 4 else "stop")

    teller.answer = answer
    frame = sample(condition="verbalised", concurrency=1)
    assert len(teller.requests) == 5 and teller.requests[0]["max_tokens"] == 150
    assert frame.groupby("prompt_id")["unreadable"].sum().tolist() == [0, 0, 2, 3, 1]
    assert frame["text"].tolist()[9:] == ["", "", "", "One", "Cut in", ""]
    assert frame["finished"].tolist()[12:] == [True, False, False]
    assert frame["calls"].sum() == 5 and frame["completion_tokens"].sum() == 35
    assert frame["raw"].dropna().tolist() == answers


def reply(content: Any = "Once", reason: Any = "stop", **changes: Any) -> tuple[int, Any]:
    return 200, completion(content, reason) | changes


def error(status: int, message: str, code: Any = None) -> tuple[int, Any]:
    return status, {"error": {"message": message, "code": code}}


PARTS = [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "On"}, {"text": "ce"}]
DEEP = "[" * 400 + "]" * 400


@pytest.mark.parametrize(
    ("answer", "text", "finished", "tokens"),
    [
        (reply(reason="length"), "Once", False, 7),
        (reply(reason="MAX_TOKENS"), "Once", False, 7),
        (reply(None, "content_filter"), "", False, 7),
        (reply(" Once \n", "eos_token"), "Once", True, 7),
        (reply(reason="end_turn"), "Once", True, 7),
        (reply(reason="stop_sequence"), "Once", True, 7),
        (reply(reason=None), "Once", True, 7),
        (reply(PARTS), "Once", True, 7),
        (reply(["On", {"type": "text", "text": {"value": "ce"}}]), "Once", True, 7),
        (reply("Or not?</think>\n\nOnce"), "Once", True, 7),
        (reply("<thinking>No.</thinking>\n<thinking>Yes.</thinking>Once"), "Once", True, 7),
        (reply("<think>never ends"), "", True, 7),
        (reply("Once \ud83d"), "Once \ufffd", True, 7),
        (reply(usage=None), "Once", True, None),
        (reply(usage={"prompt_tokens": 10}), "Once", True, None),
        (reply(usage={"completion_tokens": 7}), "Once", True, 7),
        (reply(usage={"completion_tokens": int("9" * 400)}), "Once", True, None),
        (reply(usage=[1], logprobs=json.loads(DEEP)), "Once", True, None),
        (reply(error=None), "Once", True, 7),
        (error(400, "The prompt was filtered", "content_filter"), "", False, 0),
        (error(400, "Content Exists Risk", "invalid_request_error"), "", False, 0),
        (error(403, "Your input was flagged"), "", False, 0),
        (error(500, "blocked by guardrail"), "", False, 0),
        (error(422, "I do not like this prompt", 1301), "", False, 0),
        (error(400, "maximum context length is 8 tokens"), "", False, 0),
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
        (error(400, "System role not supported"), "--no-system"),
        (error(400, "Your credit balance is too low"), "credit"),
        (error(200, "no such thing"), "no such thing"),
        (error(302, ""), "redirects"),
        (reply(None, "error", error={"message": "\x1b[31mhot", "code": 400}), "hot"),
        ((200, "<html>Sign in</html>"), "chat completion"),
        ((200, {"error": {}}), "chat completion"),
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


def test_models_that_take_no_system_message_or_know_another_limit_are_asked_so(teller, sample):
    sample(prompts=PROMPTS[:1], samples=1, system=False, limit_name="max_completion_tokens")
    body = teller.requests[0]
    (message,) = body["messages"]
    assert message == {"role": "user", "content": f"{SYSTEM}\n\n{PROMPTS['prompt'][0]}"}
    assert body["max_completion_tokens"] == 50 and "max_tokens" not in body
    assert "s.jsonl" in refusal(sample, prompts=PROMPTS[:1])  # other requests, other answers


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


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_a_call_that_fails_for_good_is_reported_and_earlier_answers_are_kept(
    teller, sample, monkeypatch, tmp_path, status
):
    """The server repeats the key in its error, as some do."""
    monkeypatch.setenv("MY_KEY", KEY)
    error = {"error": {"message": f"what is {KEY}? {'x' * 130} {KEY}", "code": "1"}}

    def answer(body: dict[str, Any], number: int) -> tuple[int, Any]:
        return (200, completion(f"Story {number}")) if number < 4 else (status, error)

    teller.answer = answer
    with pytest.raises(CourseError, match=str(status)) as caught:
        # which of two at once is refused first decides how many are in a row
        sample(key_variable="MY_KEY", concurrency=1 if status == 400 else 2, retries=0)
    assert "stored" in sentence(caught) and KEY[:12] not in str(caught.value)
    assert len(read_samples(tmp_path / "s.jsonl")) == 4
    before = len(teller.requests)
    assert before <= (15 if status == 400 else 6)  # no further calls are paid
    teller.answer = lambda body, number: (200, completion(f"Late {number}"))
    frame = sample(key_variable="MY_KEY")
    assert len(teller.requests) - before == 11
    assert frame["text"].str.startswith("Story").sum() == 4


def test_an_endpoint_that_is_gone_or_hangs_is_named_without_what_the_address_hides(teller, sample):
    with FlakyProxy(teller.url, ["drop", "hang", "hang"]) as proxy:
        address = proxy.url.replace("://", f"://me:{KEY}@")
        message = refusal(sample, base_url=address, retries=0, concurrency=1)
        host = proxy.url.removeprefix("http://").removesuffix("/v1")
        assert host in message and KEY not in message
        message = refusal(sample, base_url=proxy.url, retries=1, timeout=0.2, concurrency=1)
        assert "timed out" in message
    assert len(proxy.headers) == 3 and not teller.requests


def test_openai_alone_gets_its_key_and_account(teller, sample, monkeypatch, tmp_path):
    mine = {"OPENAI_API_KEY": KEY, "OPENAI_ORG_ID": "org-mine", "OPENAI_PROJECT_ID": "project-mine"}
    mine["OPENAI_CUSTOM_HEADERS"] = "X-Secret: header-mine\nAuthorization: Bearer other-mine"
    for name, value in [*mine.items(), ("OTHER", "another")]:
        monkeypatch.setenv(name, value)
    others = "http://localhost:8/v1", "https://openai.com.x.org/v1", "https://x.org/openai.com"
    for address in others:
        assert Endpoint("m", address).key() == "none"
        assert Endpoint("m", address, key_variable="OTHER").key() == "another"
    assert KEY not in repr(Endpoint("m"))
    sample(samples=1)
    for body in teller.requests:
        assert body["authorization"] == "Bearer none" and "mine" not in body["headers"]
    assert os.environ["OPENAI_ORG_ID"] == "org-mine"
    monkeypatch.setattr(Endpoint, "of_openai", True)
    monkeypatch.delenv("OPENAI_CUSTOM_HEADERS")
    sample(samples=1, path=tmp_path / "openai.jsonl")
    for value in (KEY, "org-mine", "project-mine"):
        assert value in teller.requests[-1]["headers"]


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("http://localhost:8000/v1", True),
        ("http://[::1]:8/v1", True),
        ("http://192.168.0.7/v1", True),
        ("http://gpu-box:8000/v1", True),
        ("http://gpu.local/v1", True),
        ("https://api.example.com/v1", True),
        ("http://api.example.com/v1", False),
        ("http://8.8.8.8/v1", False),
        ("http://[2606:4700::1111]/v1", False),
        ("http://api.openai.com/v1", False),
        ("http://me:secret@api.example.com/v1", False),
    ],
)
def test_a_key_never_crosses_the_network_unencrypted(address, sent):
    variable = None if "secret" in address else "MY_KEY"
    if sent:
        assert Endpoint("m", address, key_variable=variable)
    else:
        assert "https" in refusal(Endpoint, "m", address, key_variable=variable)
    if "example" in address and "secret" not in address:
        assert Endpoint("m", address)  # without a key


def test_a_redirect_is_not_followed(teller, sample, endpoint):
    with FlakyProxy(teller.url, ["redirect"]) as proxy:
        message = refusal(sample, base_url=proxy.url, retries=0, concurrency=1)
    assert "redirects" in message and not teller.requests


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "ümlaut", "line\nbreak"])
def test_an_unusable_key_is_not_shown_nor_a_key_in_the_place_of_its_name(monkeypatch, value):
    monkeypatch.delenv(KEY, raising=False)
    if value is not None:
        monkeypatch.setenv(KEY, value)
    message = refusal(Endpoint("m", key_variable=KEY).key)
    assert KEY not in message
    assert not value or not value.strip() or value not in message


@pytest.mark.parametrize(
    "change",
    [
        {"condition": "other"},
        {"samples": 0},
        {"prompts": PROMPTS[:0]},
        {"concurrency": 0},
        {"timeout": 0.0},
        {"max_tokens": 0},
        {"retries": -1},
        {"base_url": "localhost:8000/v1"},
        {"base_url": "http://localhost:8o/v1"},
        {"base_url": "http://local\nhost/v1"},
        {"base_url": "http://local\x00host/v1"},
        {"base_url": "http://local\x1b[31mhost/v1"},
        {"base_url": "http://a..b/v1"},
        {"base_url": "http://[::1/v1"},
        {"model": " "},
        {"samples": 10**9},
        {"max_tokens": 10**12},
        {"condition": "verbalised", "samples": 10**6, "max_tokens": 10**4},
        {"concurrency": 10**6},
        {"timeout": float("nan")},
        {"timeout": 1e308},
        {"temperature": float("inf")},
        {"top_p": 1.5},
        {"prices": (float("nan"), 1.0)},
        {"limit_name": "n"},
    ],
    ids=repr,
)
def test_bad_arguments_are_refused_before_any_call(teller, sample, change):
    assert refusal(sample, **change) and not teller.requests


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
    for cut in (12, ends[1], ends[5] + 40, len(data)):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n") // k  # calls that are stored
        before = len(teller.requests)
        frame = sample(condition=condition, concurrency=1)
        assert len(teller.requests) - before == 15 // k - whole, cut
        assert path.read_bytes()[: ends[whole * k]] == data[: ends[whole * k]]
        assert len(frame) == len(read_samples(path)) == 15


def test_other_settings_are_refused_and_the_file_is_left_alone(teller, sample, tmp_path):
    sample()
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
        time.sleep(0.1)
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
