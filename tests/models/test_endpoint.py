"""Endpoints: what is asked, where the key goes, and what is refused before any call."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
import pytest
from faults import refusal
from flaky_proxy import FlakyProxy
from teller import KEY, PROMPTS, completion

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


def test_models_that_take_no_system_message_or_know_another_limit_are_asked_so(teller, sample):
    sample(prompts=PROMPTS[:1], samples=1, system=False, limit_name="max_completion_tokens")
    body = teller.requests[0]
    (message,) = body["messages"]
    assert message == {"role": "user", "content": f"{SYSTEM}\n\n{PROMPTS['prompt'][0]}"}
    assert body["max_completion_tokens"] == 50 and "max_tokens" not in body
    assert "s.jsonl" in refusal(sample, prompts=PROMPTS[:1])  # other requests, other answers


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
        ("http://[::1]:8/v1", True),
        ("http://192.168.0.7/v1", True),
        ("http://gpu-box:8000/v1", True),
        ("http://gpu.local/v1", True),
        ("https://api.example.com/v1", True),
        ("http://api.example.com/v1", False),
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
    if "://api.example" in address:
        assert Endpoint("m", address)  # without a key


def test_an_address_that_redirects_is_not_followed_and_what_it_hides_is_not_shown(teller, sample):
    with FlakyProxy(teller.url, ["redirect", "drop", "hang", "hang"]) as proxy:
        message = refusal(sample, base_url=proxy.url, retries=0, concurrency=1)
        assert "redirects" in message
        address = proxy.url.replace("://", f"://me:{KEY}@")
        message = refusal(sample, base_url=address, retries=0, concurrency=1)
        host = proxy.url.removeprefix("http://").removesuffix("/v1")
        assert host in message and KEY not in message
        message = refusal(sample, base_url=proxy.url, retries=1, timeout=0.2, concurrency=1)
        assert "timed out" in message
    assert len(proxy.headers) == 4 and not teller.requests


@pytest.mark.parametrize("value", [None, "  ", "two words", "ümlaut", "line\nbreak"])
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
        {"samples": 10**9},
        {"condition": "verbalised", "samples": 10**6, "max_tokens": 10**4},
        {"prompts": PROMPTS[:0]},
        {"model": " "},
        {"limit_name": "n"},
        {"concurrency": 0},
        {"timeout": float("nan")},
        {"timeout": 1e308},
        {"max_tokens": 10**12},
        {"retries": -1},
        {"temperature": float("inf")},
        {"top_p": 1.5},
        {"prices": (float("nan"), 1.0)},
        {"base_url": "localhost:8000/v1"},
        {"base_url": "http://localhost:8o/v1"},
        {"base_url": "http://local\nhost/v1"},
        {"base_url": "http://local\x1b[31mhost/v1"},
        {"base_url": "http://a..b/v1"},
        {"base_url": "http://[::1/v1"},
    ],
    ids=repr,
)
def test_bad_arguments_are_refused_before_any_call(teller, sample, change):
    assert refusal(sample, **change) and not teller.requests
