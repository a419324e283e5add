"""Short answers: each is asked for once, of an endpoint and of a local model alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flaky_proxy import FlakyProxy
from teller import completion

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
    return get_answers(asked, path, model, max_tokens)


def echo(body: dict[str, Any], number: int) -> tuple[int, Any]:
    return 200, completion(f"Of {body['messages'][0]['content']}")


def test_an_endpoint_is_sent_each_request_alone_and_greedily(teller, endpoint, tmp_path):
    teller.answer = echo
    records = ask(endpoint(), tmp_path / "a.jsonl")
    expected = [(text, f"Of {text}", True) for text in ASKED]
    assert [(r["prompt"], r["text"], r["finished"]) for r in records] == expected
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
    path = tmp_path / "a.jsonl"
    teller.answer = lambda body, number: (200, completion(f"Answer {number}"))
    first = ask(endpoint(), path, ASKED[:2])
    records = ask(endpoint(), path, [*ASKED, ASKED[0]])
    assert len(teller.requests) == 4 and records[:2] == first and records[4] == first[0]
    assert ask(endpoint(), path, ASKED[2:]) == records[2:4] and len(teller.requests) == 4
    assert len(read_samples(path)) == 4
    path.write_bytes(path.read_bytes()[:-5])  # killed in the middle of the last answer
    assert ask(endpoint(), path)[:2] == first and len(teller.requests) == 5


def test_faults_are_repeated_and_the_next_call_asks_for_the_rest(teller, endpoint, tmp_path):
    def answer(body: dict[str, Any], number: int) -> tuple[int, Any]:
        return echo(body, number) if number < 3 else (404, {"error": {"message": "gone"}})

    teller.answer = answer
    with FlakyProxy(teller.url, ["429", "500", "drop", "cut", None, "hang"]) as proxy:
        model = endpoint(base_url=proxy.url, timeout=1.0, concurrency=1)
        with pytest.raises(CourseError, match="404"):
            ask(model, tmp_path / "a.jsonl")
    made, teller.answer = len(teller.requests), echo
    records = ask(endpoint(), tmp_path / "a.jsonl")
    assert [r["text"] for r in records] == [f"Of {text}" for text in ASKED]
    assert made == 4 and len(teller.requests) == made + 4 - 2  # one of three answers was cut


def test_nothing_is_sent_before_the_estimate_is_agreed_to(teller, endpoint, tmp_path):
    shown: list[str] = []
    with pytest.raises(CourseError):
        ask(endpoint(confirm=lambda text: shown.append(text)), tmp_path / "a.jsonl")
    tokens = sum(4 - (-len(text) // 4) for text in ASKED)
    assert not teller.requests and "4 calls" in shown[0] and f"{tokens} prompt tokens" in shown[0]


def test_reasoning_is_left_out_and_a_cut_or_withheld_answer_is_marked(teller, endpoint, tmp_path):
    kinds = [
        ("<think>P or Q?</think>\n\nP ", "stop"),
        ("<think>P or", "length"),
        ("Half", "length"),
        (None, "stop"),
    ]
    teller.answer = lambda body, number: (200, completion(*kinds[number]))
    records = ask(endpoint(concurrency=1), tmp_path / "a.jsonl")
    found = [(r["text"], r["finished"]) for r in records]
    assert found == [("P", True), ("", False), ("Half", False), ("", True)]


def test_answers_under_other_settings_are_not_mixed_in(teller, endpoint, local, tmp_path):
    import torch

    ask(endpoint(), tmp_path / "a.jsonl")
    before = (tmp_path / "a.jsonl").read_bytes()
    others = [endpoint(model="n"), endpoint(temperature=0.5), local]
    for model, tokens in [*((model, 6) for model in others), (endpoint(), 7)]:
        with pytest.raises(CourseError, match=r"a\.jsonl"):
            ask(model, tmp_path / "a.jsonl", max_tokens=tokens)
    assert (tmp_path / "a.jsonl").read_bytes() == before and len(teller.requests) == 4
    ask(local, tmp_path / "b.jsonl")
    with torch.no_grad():
        local.model.lm_head.weight[0, 0] += 1
    with pytest.raises(CourseError, match=r"b\.jsonl"):
        ask(local, tmp_path / "b.jsonl")


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
    local.model.generation_config.update(do_sample=True, temperature=3.0, top_k=5)  # ignored
    records = ask(local, tmp_path / "a.jsonl")
    for record, text in zip(records, ASKED, strict=True):
        assert record["text"] == local.tokenizer.decode(greedy(local, text, 6)).strip()
        assert not record["finished"] and record["completion_tokens"] == 6
        assert record["prompt_tokens"] > 6 and record["source"] == "random"
    local.model.generation_config.eos_token_id = greedy(local, "Sea?", 1)
    (ended,) = ask(local, tmp_path / "b.jsonl", ["Sea?"])
    assert (ended["text"], ended["finished"], ended["completion_tokens"]) == ("", True, 0)


def test_a_stopped_local_run_makes_the_missing_answers_only(local, tmp_path, monkeypatch):
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


def test_a_request_longer_than_the_model_reads_is_refused(local, tmp_path):
    with pytest.raises(CourseError, match="2048"):
        ask(local, tmp_path / "a.jsonl", ["Sea?", "word " * 2040])
    assert not list(tmp_path.iterdir())
