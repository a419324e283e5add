"""Short answers: each is asked for once, by an endpoint and by a local model alike. The server is a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flaky_proxy import FlakyProxy
from teller import KEY, completion

from ddpo_utils import CourseError
from ddpo_utils.models.answers import get_answers
from ddpo_utils.models.sampling import read_samples

pytest_plugins = "answer_fixtures"

ASKED = [
    "Sea?",
    "A clock 🙂 stops. What then, and why does nobody in the town remember it?",
    "Élodie\nlaughed",
    "x",
]


def ask(
    model: Any, path: Path, asked: list[str] = ASKED, max_tokens: int = 6
) -> list[dict[str, Any]]:
    return get_answers(asked, path, model, max_tokens, progress=False)


def echo(body: dict[str, Any], number: int) -> tuple[int, Any]:
    return 200, completion(f"Of {body['messages'][0]['content']}")


def test_an_endpoint_is_sent_each_request_alone_and_greedily(teller, endpoint, tmp_path):
    teller.answer = echo
    records = ask(endpoint(), tmp_path / "a.jsonl")
    assert [(r["prompt"], r["text"], r["finished"]) for r in records] == [
        (t, f"Of {t}", True) for t in ASKED
    ]
    assert {(r["source"], r["prompt_tokens"], r["completion_tokens"]) for r in records} == {
        ("m", 10, 7)
    }
    for body in teller.requests:
        assert [m["role"] for m in body["messages"]] == ["user"] and "top_p" not in body
        assert (body["temperature"], body["max_tokens"], body["model"]) == (0.0, 6, "m")
    ask(endpoint(temperature=None), tmp_path / "b.jsonl", ["?"])
    assert "temperature" not in teller.requests[-1]


def test_further_requests_cost_what_is_new_and_equal_ones_share_an_answer(
    teller, endpoint, tmp_path
):
    teller.answer = lambda body, number: (200, completion(f"Answer {number}"))
    first = ask(endpoint(), tmp_path / "a.jsonl", ASKED[:2])
    records = ask(endpoint(), tmp_path / "a.jsonl", [*ASKED, ASKED[0]])
    assert len(teller.requests) == 4 and records[:2] == first and records[4] == first[0]
    assert (
        ask(endpoint(), tmp_path / "a.jsonl", ASKED[2:]) == records[2:4]
        and len(teller.requests) == 4
    )
    assert len(read_samples(tmp_path / "a.jsonl")) == 4


def test_a_file_cut_anywhere_costs_the_missing_answers_alone(teller, endpoint, tmp_path):
    path = tmp_path / "a.jsonl"
    ask(endpoint(concurrency=1), path)
    data = path.read_bytes()
    for cut in (0, 5, data.index(b"\n"), data.index(b"\n") + 1, len(data) - 1, len(data)):
        path.write_bytes(data[:cut])
        before = len(teller.requests)
        assert len(ask(endpoint(), path)) == 4
        assert len(teller.requests) - before == 4 - data[:cut].count(b"\n")


def test_faults_are_repeated_and_nothing_is_paid_twice_but_what_was_cut(teller, endpoint, tmp_path):
    teller.answer = echo
    with FlakyProxy(teller.url, ["429", "500", "drop", "cut", None, "hang"]) as proxy:
        records = ask(
            endpoint(base_url=proxy.url, timeout=1.0, concurrency=2), tmp_path / "a.jsonl"
        )
    assert [r["text"] for r in records] == [f"Of {t}" for t in ASKED]
    assert proxy.answered == 4 + 1 and sum(r["repeats"] for r in records) == 5


def test_after_a_fault_for_good_the_next_call_asks_for_the_rest(teller, endpoint, tmp_path):
    teller.answer = lambda body, number: (
        echo(body, number) if number < 2 else (404, {"error": {"message": "gone"}})
    )
    with pytest.raises(CourseError, match=r"no model 'm'.*is stored"):
        ask(endpoint(concurrency=1), tmp_path / "a.jsonl")
    made, teller.answer = len(teller.requests), echo
    assert [r["text"] for r in ask(endpoint(), tmp_path / "a.jsonl")] == [f"Of {t}" for t in ASKED]
    assert made == 3 and len(teller.requests) == made + 2


def test_the_estimate_comes_first_and_nothing_is_sent_unless_agreed(
    teller, endpoint, tmp_path, capsys
):
    seen: list[Any] = []
    with pytest.raises(CourseError, match="Nothing was sent"):
        ask(
            endpoint(confirm=lambda e: seen.append(e) or False, prices=(1.0, 2.0)),
            tmp_path / "a.jsonl",
        )
    tokens = sum(4 - (-len(text) // 4) for text in ASKED)
    assert (seen[0].calls, seen[0].prompt_tokens, seen[0].completion_tokens) == (4, tokens, 24)
    assert not teller.requests and "4 calls to make" in capsys.readouterr().out
    ask(endpoint(prices=(1.0, 2.0)), tmp_path / "a.jsonl")
    assert (
        "4 calls used 40 prompt tokens and 28 completion tokens, which cost 0.0001"
        in capsys.readouterr().out
    )


def test_the_key_is_sent_and_appears_nowhere_else(teller, endpoint, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MY_KEY", KEY)
    model = endpoint(key_variable="MY_KEY")
    ask(model, tmp_path / "a.jsonl")
    said = capfd.readouterr()
    assert {body["authorization"] for body in teller.requests} == {f"Bearer {KEY}"}
    assert not any(
        KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()
    )
    assert KEY not in said.out + said.err + repr(model)


def test_reasoning_is_left_out_and_a_cut_or_withheld_answer_is_said(teller, endpoint, tmp_path):
    kinds = [
        ("<think>P or Q?</think>\n\nP ", "stop"),
        ("<think>P or", "length"),
        ("Half", "length"),
        (None, "stop"),
    ]
    teller.answer = lambda body, number: (200, completion(*kinds[number]))
    records = ask(endpoint(concurrency=1), tmp_path / "a.jsonl")
    assert [(r["text"], r["finished"]) for r in records] == [
        ("P", True),
        ("", False),
        ("Half", False),
        ("", True),
    ]


@pytest.mark.parametrize("change", [{"model": "n"}, {"temperature": 0.5}, {"top_p": 0.9}], ids=str)
def test_answers_under_other_settings_are_not_mixed_in(teller, endpoint, local, tmp_path, change):
    ask(endpoint(), tmp_path / "a.jsonl")
    before = (tmp_path / "a.jsonl").read_bytes()
    for model, tokens in ((endpoint(**change), 6), (endpoint(), 7), (local, 6)):
        with pytest.raises(CourseError, match="something else"):
            ask(model, tmp_path / "a.jsonl", max_tokens=tokens)
    assert (tmp_path / "a.jsonl").read_bytes() == before and len(teller.requests) == 4


def greedy(local: Any, text: str, count: int) -> list[int]:
    """The likeliest tokens one by one, without a batch, padding or `generate`."""
    import torch

    chat = [{"role": "user", "content": text}]
    prompt = local.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = local.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(local.model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[start:]


def test_a_local_model_answers_with_its_likeliest_tokens(local, tmp_path):
    local.model.generation_config.update(
        do_sample=True, temperature=3.0, top_k=5
    )  # which must not matter
    records = ask(local, tmp_path / "a.jsonl")
    for record, text in zip(records, ASKED, strict=True):
        assert (
            record["text"] == local.tokenizer.decode(greedy(local, text, 6)).strip()
            and not record["finished"]
        )
        assert (
            record["completion_tokens"] == 6
            and record["prompt_tokens"] > 6
            and record["source"] == "random"
        )
    first = greedy(local, "Sea?", 1)
    local.model.generation_config.eos_token_id = first
    (ended,) = ask(local, tmp_path / "b.jsonl", ["Sea?"])
    assert (ended["text"], ended["finished"], ended["completion_tokens"]) == ("", True, 0)


def test_a_stopped_local_run_makes_the_missing_answers_alone(local, tmp_path, monkeypatch):
    whole = ask(local, tmp_path / "whole.jsonl")
    generate, calls = local.model.generate, []

    def failing(**inputs: Any) -> Any:
        calls.append(len(inputs["input_ids"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(**inputs)

    monkeypatch.setattr(local.model, "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        ask(local, tmp_path / "a.jsonl")
    assert ask(local, tmp_path / "a.jsonl") == whole and calls == [2, 2, 2]
    assert ask(local, tmp_path / "a.jsonl", [*ASKED, "New"])[:4] == whole and calls == [2, 2, 2, 1]


def test_a_request_longer_than_the_model_reads_is_refused_and_nothing_is_cut_unsaid(
    local, tmp_path
):
    with pytest.raises(CourseError, match="more than the 2048 that random reads"):
        ask(local, tmp_path / "a.jsonl", ["Sea?", "word " * 2040])
    assert not list(tmp_path.iterdir())


def test_other_weights_are_another_model(local, tmp_path):
    import torch

    ask(local, tmp_path / "a.jsonl")
    with torch.no_grad():
        local.model.lm_head.weight[0, 0] += 1
    with pytest.raises(CourseError, match="something else"):
        ask(local, tmp_path / "a.jsonl")
