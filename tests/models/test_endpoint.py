"""Endpoints: nothing received is lost or paid for twice, whatever breaks; no key gets out. The server is a real one."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pandas as pd
import pytest
from faults import sentence
from flaky_proxy import FlakyProxy
from teller import KEY, PROMPTS, completion

from ddpo_utils import CourseError
from ddpo_utils.models.calls import find_key
from ddpo_utils.models.prompting import SYSTEM, request, stories
from ddpo_utils.models.sampling import read_samples

pytest_plugins = "endpoint_fixtures"


def test_the_file_holds_one_record_a_sample_as_sample_stories_writes_them(teller, sample, tmp_path):
    frame = sample()
    assert frame["prompt_id"].tolist() == [p for p in PROMPTS["prompt_id"] for _ in range(3)]
    assert (
        frame["sample"].tolist() == [0, 1, 2] * 5
        and (frame["source"] == "m plain").all()
        and frame["finished"].all()
    )
    assert (
        set(frame["text"]) == {f"Story {n} 🙂" for n in range(15)} and (frame["tokens"] == 7).all()
    )
    stored = read_samples(tmp_path / "s.jsonl").sort_values(
        ["prompt_id", "sample"], ignore_index=True
    )
    pd.testing.assert_frame_equal(frame, stored)
    for body in teller.requests:
        assert (body["temperature"], body["top_p"], body["max_tokens"], body["model"]) == (
            1.0,
            0.95,
            50,
            "m",
        )
        assert body["messages"][0] == {"role": "system", "content": SYSTEM}
    assert sorted(body["messages"][1]["content"] for body in teller.requests) == sorted(
        [*PROMPTS["prompt"]] * 3
    )


def test_none_sends_no_sampling_settings(teller, sample):
    sample(temperature=None, top_p=None)
    assert not any({"temperature", "top_p"} & set(body) for body in teller.requests)


def test_only_openai_gets_the_newer_name_of_the_limit_and_the_default_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OTHER", "another")
    assert find_key("https://api.openai.com/v1", None) == KEY
    for address in (
        "http://localhost:8000/v1",
        "https://openai.com.example.org/v1",
        "https://example.org/openai.com",
    ):
        assert find_key(address, None) == "none"
        assert find_key(address, "OTHER") == "another"


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "ümlaut", "line\nbreak"])
def test_an_unusable_key_is_named_but_not_shown(monkeypatch, value):
    """Whoever gives the key itself for its name does not find it on the screen either."""
    monkeypatch.delenv(KEY, raising=False)
    if value is not None:
        monkeypatch.setenv(KEY, value)
    with pytest.raises(CourseError, match="never the key") as caught:
        find_key("http://localhost/v1", KEY)
    assert KEY not in str(caught.value) and (
        not value or not value.strip() or value not in str(caught.value)
    )


def test_an_iterative_request_carries_the_earlier_stories_of_its_prompt(teller, sample):
    teller.answer = lambda body, number: (
        200,
        completion(f"Piece of {body['messages'][1]['content'][:6]} {number}"),
    )
    frame = sample(condition="iterative")
    texts = frame.groupby("prompt_id")["text"].agg(list)
    expected = [
        request(prompt, "iterative", earlier=texts[prompt_id][:n])
        for prompt_id, prompt in PROMPTS.itertuples(index=False)
        for n in range(3)
    ]
    assert sorted(body["messages"][1]["content"] for body in teller.requests) == sorted(expected)
    assert all(text in expected[2] for text in texts["p0"][:2]) and "far" in expected[2]


def test_a_verbalised_call_gives_all_stories_and_counts_what_cannot_be_read(
    teller, sample, tmp_path
):
    form = "<response><text>One</text><probability>0.2</probability></response>"
    answers = [
        form * 3,
        form * 5,
        form,
        "I would rather not.",
        form + "<response><text>Cut in the mid",
    ]
    teller.answer = lambda body, number: (
        200,
        completion(answers[number], "length" if number == 4 else "stop"),
    )
    frame = sample(condition="verbalised", concurrency=1)
    assert len(teller.requests) == 5 and teller.requests[0]["max_tokens"] == 150
    assert frame.groupby("prompt_id")["unreadable"].sum().tolist() == [0, 0, 2, 3, 1]
    assert frame["text"].tolist()[9:] == ["", "", "", "One", "Cut in the mid", ""]
    assert frame["finished"].tolist()[12:] == [True, False, False]
    assert (
        frame["calls"].sum() == 5 and frame["completion_tokens"].sum() == 35
    )  # a call is paid for once
    assert frame["raw"].dropna().tolist() == answers
    assert len(read_samples(tmp_path / "s.jsonl")) == 15


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("<response><text>a\nb</text><probability>0.25</probability></response>", [("a\nb", 0.25)]),
        (
            "```xml\n<RESPONSE id=1>\n<Text> a </Text>\n<probability> 25% </probability>\n</RESPONSE>```",
            [("a", 0.25)],
        ),
        ("<response><probability>.5</probability><text>a</text></response>", [("a", 0.5)]),
        (
            "<response><text>a<probability>1e-2</probability><response><text>b</text>",
            [("a", 0.01), ("b", None)],
        ),
        ("<response>bare <probability>0.1</probability></response>", [("bare", 0.1)]),
        ("<response><text>a</text><probability>likely</probability></response>", [("a", None)]),
        ("<response><text>a</text><probability>7</probability></response>", [("a", None)]),
        ("<response><text></text><probability>0.3</probability></response>", []),
        (
            "<think><response><text>no</text></response></think><response><text>a</text></response>",
            [("a", None)],
        ),
        ("<think>never ends <response><text>no</text></response>", []),
        ("no form", []),
        ("", []),
    ],
)
def test_verbalised_answers_are_read_as_models_write_them(answer, expected):
    found = stories(answer, True, "verbalised", 3)
    assert [(s["text"], s["probability"]) for s in found if not s["unreadable"]] == expected
    assert len(found) == 3 and all(not s["text"] for s in found[len(expected) :])


@pytest.mark.parametrize(
    "answer, whole",
    [("<response><text>a</text><probability>0.", True), ("<response><text>a", False)],
)
def test_a_cut_answer_s_last_story_is_whole_if_its_text_was_closed(answer, whole):
    assert stories(answer, False, "verbalised", 1)[0]["finished"] is whole


def test_every_fault_is_repeated_and_nothing_is_paid_twice_but_what_was_cut(teller, sample, capsys):
    faults = ["429", "429 retry-after", "500", "503", "drop", "cut", "hang", None, "cut", "drop"]
    with FlakyProxy(teller.url, faults) as proxy:
        frame = sample(base_url=proxy.url, timeout=0.7, concurrency=5)
    assert {fault: proxy.met[fault] for fault in proxy.met if fault} == {
        "429": 1,
        "429 retry-after": 1,
        "500": 1,
        "503": 1,
        "drop": 2,
        "cut": 2,
        "hang": 1,
    }
    assert sorted(frame["text"]) == sorted(
        a["choices"][0]["message"]["content"] for a in proxy.delivered
    )
    assert (
        proxy.answered == len(teller.requests) == 15 + 2
    )  # the protocol has no way to ask for a lost answer again
    assert frame["repeats"].sum() == 9 and proxy.busiest <= 5
    assert "calls were sent again 9 times" in capsys.readouterr().out


def test_the_server_s_retry_after_is_kept_to(teller, sample):
    with FlakyProxy(teller.url, ["429 retry-after"]) as proxy:
        sample(base_url=proxy.url, prompts=PROMPTS[:1], samples=1)
    assert proxy.times[1] - proxy.times[0] >= 1.0  # the library's own first pause is half as long


def test_the_number_of_calls_at_once_is_kept(teller, sample):
    barrier, most, open_calls = threading.Lock(), [0], [0]

    def slow(body: dict[str, Any], number: int) -> tuple[int, Any]:
        with barrier:
            open_calls[0] += 1
            most[0] = max(most[0], open_calls[0])
        threading.Event().wait(0.05)
        with barrier:
            open_calls[0] -= 1
        return 200, completion("Story")

    teller.answer = slow
    sample(concurrency=3)
    assert most[0] == 3


@pytest.mark.parametrize(
    "status, words",
    [
        (400, "400.*Change what it refuses"),
        (401, "key was refused"),
        (403, "may not use 'm'"),
        (404, "no model 'm'"),
        (422, "Change"),
        (429, "also after the retries"),
        (500, "also after the retries"),
    ],
)
def test_a_call_that_fails_for_good_is_said_and_what_came_before_is_kept(
    teller, sample, monkeypatch, tmp_path, status, words
):
    """The server repeats the key in its error, as some do."""
    monkeypatch.setenv("MY_KEY", KEY)
    error = {"error": {"message": f"what is {KEY}? {'x' * 130} {KEY}", "code": "1"}}
    teller.answer = lambda body, number: (
        (200, completion(f"Story {number}")) if number < 4 else (status, error)
    )
    with pytest.raises(CourseError, match=words) as caught:
        sample(key_variable="MY_KEY", concurrency=2, retries=0)
    assert "stored" in str(caught.value) and KEY[:12] not in str(caught.value)
    assert len(read_samples(tmp_path / "s.jsonl")) == 4
    assert len(teller.requests) <= 6  # no further calls are begun
    before = len(teller.requests)
    teller.answer = lambda body, number: (200, completion(f"Late {number}"))
    frame = sample(key_variable="MY_KEY")
    assert len(teller.requests) - before == 11 and frame["text"].str.startswith("Story").sum() == 4


@pytest.mark.parametrize(
    "reply",
    [
        "<html>Sign in</html>",
        {"error": {"message": "upstream"}},
        {"choices": []},
        {"choices": None},
        [],
    ],
)
def test_an_answer_that_is_no_completion_is_said(teller, sample, reply):
    teller.answer = lambda body, number: (200, reply)
    with pytest.raises(CourseError, match="something else than a chat completion"):
        sample(retries=0)


def unknown(*_: Any, **__: Any) -> None:
    raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize(
    "host, why", [("127.0.0.1:9", "refused"), ("nowhere.invalid:80", "no such host")]
)
def test_an_endpoint_that_is_not_there_is_said_at_once(sample, tmp_path, monkeypatch, host, why):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if (
        "invalid" in host
    ):  # as a name server says it that gives no search page for what it does not know
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    begun = time.monotonic()
    with pytest.raises(
        CourseError, match=f"http://{host} .*{why}.*does a server run there"
    ) as caught:
        sample(base_url=f"http://me:{KEY}@{host}/{KEY}/v1?key={KEY}", retries=10)
    assert time.monotonic() - begun < 15 and KEY not in sentence(caught)
    assert not (tmp_path / "s.jsonl").exists()


def test_behind_a_proxy_it_is_the_proxy_that_knows_the_host(teller, sample, monkeypatch):
    with FlakyProxy(teller.url) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        frame = sample(base_url="http://nowhere.invalid/v1", prompts=PROMPTS[:1])
    assert len(frame) == 3 and proxy.answered == 3


def test_an_endpoint_that_has_answered_and_is_gone_is_named_after_the_retries(
    teller, sample, tmp_path
):
    with FlakyProxy(teller.url, [None, *["drop"] * 9]) as proxy:
        with pytest.raises(CourseError, match=r"also after the retries.*stored") as caught:
            sample(base_url=proxy.url.replace("://", f"://me:{KEY}@"), retries=1, concurrency=1)
        assert f"at {proxy.url.removesuffix('/v1')}," in str(caught.value) and KEY not in str(
            caught.value
        )
    assert len(read_samples(tmp_path / "s.jsonl")) == 1


def test_a_hung_endpoint_is_given_up(teller, sample):
    with (
        FlakyProxy(teller.url, ["hang"] * 9) as proxy,
        pytest.raises(CourseError, match="timed out"),
    ):
        sample(base_url=proxy.url, retries=1, timeout=0.2, concurrency=1)
    assert len(proxy.times) == 2 and not teller.requests


def test_answers_that_are_cut_or_withheld_are_stored_as_such(teller, sample):
    kinds = [("Once", "length"), (None, "content_filter"), (" Whole \n", "stop")]
    teller.answer = lambda body, number: (200, completion(*kinds[number]))
    frame = sample(prompts=PROMPTS[:1], concurrency=1)
    assert frame["text"].tolist() == ["Once", "", "Whole"] and frame["finished"].tolist() == [
        False,
        False,
        True,
    ]


def test_a_prompt_that_the_endpoint_will_not_have_is_a_failure_and_no_end(teller, sample):
    withheld = (400, {"error": {"message": "The prompt was filtered", "code": "content_filter"}})
    teller.answer = lambda body, number: (
        withheld if "Sea." in str(body) else (200, completion("Story"))
    )
    frame = sample(concurrency=1)
    refused = frame[frame["prompt_id"] == "p0"]
    assert (
        refused["text"].tolist() == [""] * 3 and not refused["finished"].any() and len(frame) == 15
    )
    assert refused["completion_tokens"].sum() == 0


def test_the_key_is_sent_and_appears_nowhere_else(teller, sample, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-this-server")
    sample(key_variable="MY_KEY")
    assert {body["authorization"] for body in teller.requests} == {f"Bearer {KEY}"}
    said = capfd.readouterr()
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert (
        files and not any(KEY.encode() in data for data in files) and KEY not in said.out + said.err
    )
    sample(path=tmp_path / "without.jsonl")
    assert {body["authorization"] for body in teller.requests[15:]} == {"Bearer none"}


def test_what_names_an_account_at_openai_is_sent_to_nobody_else(teller, sample, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-mine")
    sample()
    assert teller.requests and not any("of-mine" in body["headers"] for body in teller.requests)
    monkeypatch.setattr("ddpo_utils.models.calls.of_openai", lambda base_url: True)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    sample(samples=4)
    assert all(
        name in teller.requests[-1]["headers"] for name in ("org-of-mine", "project-of-mine")
    )


def test_it_runs_where_an_event_loop_runs_already(sample):
    """As in a notebook."""

    async def cell() -> pd.DataFrame:
        return sample(prompts=PROMPTS[:1])

    assert len(asyncio.run(cell())) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"condition": "other"},
        {"samples": 0},
        {"prompts": PROMPTS[:0]},
        {"prompts": PROMPTS.assign(prompt_id="p")},
        {"concurrency": 0},
        {"timeout": 0.0},
        {"max_tokens": 0},
        {"retries": -1},
        {"base_url": "localhost:8000/v1"},
        {"base_url": "http:///v1"},
        {"base_url": "http://localhost:8o/v1"},
        {"model": ""},
        {"model": " "},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"prices": (-1, 1)},
        {"prices": (1, float("nan"))},
        {"prices": (1,)},
        {"timeout": float("nan")},
        {"prompts": PROMPTS.assign(prompt=5)},
        {"prompts": PROMPTS.assign(prompt=" ")},
    ],
    ids=str,
)
def test_bad_arguments_are_refused_before_any_call(teller, sample, change):
    with pytest.raises(CourseError) as caught:
        sample(**change)
    assert sentence(caught)
    assert not teller.requests
