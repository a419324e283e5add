"""Endpoints: what is received is stored and never paid twice, whatever breaks; keys stay secret."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import pytest
from faults import sentence
from flaky_proxy import FlakyProxy
from teller import KEY, PROMPTS, completion

from ddpo_utils import CourseError
from ddpo_utils.models.endpoint import Endpoint
from ddpo_utils.models.prompting import SYSTEM, request
from ddpo_utils.models.sampling import read_samples

pytest_plugins = "endpoint_fixtures"


def test_the_file_holds_one_record_a_sample(teller, sample, tmp_path):
    frame = sample()
    assert frame["prompt_id"].tolist() == [p for p in PROMPTS["prompt_id"] for _ in range(3)]
    assert frame["sample"].tolist() == [0, 1, 2] * 5
    assert (frame["source"] == "m plain").all() and frame["finished"].all()
    assert set(frame["text"]) == {f"Story {n} 🙂" for n in range(15)}
    assert (frame["tokens"] == 7).all()
    stored = read_samples(tmp_path / "s.jsonl").sort_values(["prompt_id", "sample"])
    pd.testing.assert_frame_equal(frame, stored.reset_index(drop=True))
    for body in teller.requests:
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 0.95, 50)
        assert body["messages"][0] == {"role": "system", "content": SYSTEM}
    asked = sorted(body["messages"][1]["content"] for body in teller.requests)
    assert asked == sorted([*PROMPTS["prompt"]] * 3)


def test_an_iterative_request_carries_the_earlier_stories_of_its_prompt(teller, sample):
    frame = sample(condition="iterative")
    texts = frame.groupby("prompt_id")["text"].agg(list)
    expected = [
        request(prompt, "iterative", earlier=texts[prompt_id][:n])
        for prompt_id, prompt in PROMPTS.itertuples(index=False)
        for n in range(3)
    ]
    assert sorted(body["messages"][1]["content"] for body in teller.requests) == sorted(expected)
    assert all(text in expected[2] for text in texts["p0"][:2])


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


def test_answers_that_are_cut_or_withheld_are_stored_as_such(teller, sample):
    kinds = [("Once", "length"), (None, "content_filter"), (" Whole \n", "stop")]
    teller.answer = lambda body, number: (200, completion(*kinds[number]))
    frame = sample(prompts=PROMPTS[:1], concurrency=1)
    assert frame["text"].tolist() == ["Once", "", "Whole"]
    assert frame["finished"].tolist() == [False, False, True]


def test_a_prompt_that_the_endpoint_withholds_is_a_failed_story_and_stops_nothing(teller, sample):
    withheld = (400, {"error": {"message": "The prompt was filtered", "code": "content_filter"}})

    def answer(body: dict[str, Any], number: int) -> tuple[int, Any]:
        return withheld if "Sea." in str(body) else (200, completion("Story"))

    teller.answer = answer
    frame = sample(concurrency=1)
    refused = frame[frame["prompt_id"] == "p0"]
    assert refused["text"].tolist() == [""] * 3 and not refused["finished"].any()
    assert len(frame) == 15 and refused["completion_tokens"].sum() == 0


def test_every_fault_is_repeated_and_only_cut_answers_are_paid_twice(teller, sample):
    faults = ["429", "429 retry-after", "500", "503", "drop", "cut", "hang", None, "cut", "drop"]
    with FlakyProxy(teller.url, faults) as proxy:
        frame = sample(base_url=proxy.url, timeout=3.0, concurrency=5)
    received = [answer["choices"][0]["message"]["content"] for answer in proxy.delivered]
    assert sorted(frame["text"]) == sorted(received)
    assert proxy.answered == len(teller.requests) == 15 + 2  # no client can ask for a lost answer
    assert frame["repeats"].sum() == 9


def test_the_number_of_calls_at_once_is_kept(teller, sample):
    def slow(body: dict[str, Any], number: int) -> tuple[int, Any]:
        time.sleep(0.05)
        return 200, completion("Story")

    teller.answer = slow
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
        sample(key_variable="MY_KEY", concurrency=2, retries=0)
    assert "stored" in sentence(caught) and KEY[:12] not in str(caught.value)
    assert len(read_samples(tmp_path / "s.jsonl")) == 4
    assert len(teller.requests) <= 6  # no further calls are started
    before = len(teller.requests)
    teller.answer = lambda body, number: (200, completion(f"Late {number}"))
    frame = sample(key_variable="MY_KEY")
    assert len(teller.requests) - before == 11
    assert frame["text"].str.startswith("Story").sum() == 4


@pytest.mark.parametrize("reply", ["<html>Sign in</html>", {"error": {}}, {"choices": []}, []])
def test_an_answer_that_is_no_completion_is_a_fault(teller, sample, reply):
    teller.answer = lambda body, number: (200, reply)
    with pytest.raises(CourseError, match="chat completion"):
        sample(retries=0)


def test_an_endpoint_that_is_gone_or_hangs_is_named_without_what_the_address_hides(teller, sample):
    with FlakyProxy(teller.url, ["drop", "hang", "hang"]) as proxy:
        address = proxy.url.replace("://", f"://me:{KEY}@")
        with pytest.raises(CourseError) as caught:
            sample(base_url=address, retries=0, concurrency=1)
        host = proxy.url.removeprefix("http://").removesuffix("/v1")
        assert host in sentence(caught) and KEY not in str(caught.value)
        with pytest.raises(CourseError, match="timed out"):
            sample(base_url=proxy.url, retries=1, timeout=0.2, concurrency=1)
    assert len(proxy.headers) == 3 and not teller.requests


def test_keys_come_from_the_environment_and_openai_alone_gets_its_own(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OTHER", "another")
    assert Endpoint("m").key() == KEY and KEY not in repr(Endpoint("m"))
    others = "http://localhost:8/v1", "https://openai.com.x.org/v1", "https://x.org/openai.com"
    for address in others:
        assert Endpoint("m", address).key() == "none"
        assert Endpoint("m", address, key_variable="OTHER").key() == "another"


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "ümlaut", "line\nbreak"])
def test_an_unusable_key_is_not_shown_nor_a_key_in_the_place_of_its_name(monkeypatch, value):
    monkeypatch.delenv(KEY, raising=False)
    if value is not None:
        monkeypatch.setenv(KEY, value)
    with pytest.raises(CourseError) as caught:
        Endpoint("m", key_variable=KEY).key()
    assert KEY not in sentence(caught)
    assert not value or not value.strip() or value not in str(caught.value)


def test_the_key_is_sent_and_appears_nowhere_else(teller, sample, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-this-server")
    sample(key_variable="MY_KEY")
    assert {body["authorization"] for body in teller.requests} == {f"Bearer {KEY}"}
    printed = capfd.readouterr()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in data for data in files)
    assert KEY not in printed.out + printed.err
    sample(path=tmp_path / "without.jsonl")
    assert {body["authorization"] for body in teller.requests[15:]} == {"Bearer none"}


def test_what_names_an_account_at_openai_is_sent_to_nobody_else(teller, sample, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-mine")
    sample()
    assert teller.requests and not any("of-mine" in body["headers"] for body in teller.requests)
    monkeypatch.setattr(Endpoint, "of_openai", True)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    sample(samples=4)
    for name in ("org-of-mine", "project-of-mine"):
        assert name in teller.requests[-1]["headers"]


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
        {"model": " "},
    ],
    ids=str,
)
def test_bad_arguments_are_refused_before_any_call(teller, sample, change):
    with pytest.raises(CourseError) as caught:
        sample(**change)
    assert sentence(caught) and not teller.requests
