"""Short answers: each is asked for once, from an endpoint and from a local model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from faults import refusal
from teller import completion

from ddpo_utils.models.answers import get_answers
from ddpo_utils.models.sampling import read_samples

pytest_plugins = "answer_fixtures"

ASKED = [
    "Sea?",
    "A clock 🙂 stops. What then, and why does nobody in the town remember it?",
    "Élodie\nlaughed",
    "x",
]


def ask(model: Any, path: Path, asked: list[str] = ASKED, max_tokens: int = 6) -> Any:
    return get_answers(asked, path, model, max_tokens)


def test_an_endpoint_is_sent_each_request_alone_and_greedily(teller, endpoint, tmp_path):
    def answer(body: dict[str, Any], number: int) -> tuple[int, Any]:
        asked = body["messages"][0]["content"]
        return 200, completion(f"<think>Or not?</think>Of {asked}")

    teller.answer = answer
    records = ask(endpoint(), tmp_path / "a.jsonl")
    expected = [(text, f"Of {text}", True) for text in ASKED]
    assert [(r["prompt"], r["text"], r["finished"]) for r in records] == expected
    for record in records:
        counts = (record["prompt_tokens"], record["completion_tokens"], record["repeats"])
        assert counts == (10, 7, 0) and record["source"] == "m"
        assert record["run"] == "e5295f61971a5364"  # stored files are continued
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


def test_answers_under_other_settings_are_not_mixed_in(teller, endpoint, local, tmp_path):
    ask(endpoint(), tmp_path / "a.jsonl")
    before = (tmp_path / "a.jsonl").read_bytes()
    others = [endpoint(model="n"), endpoint(temperature=0.5), local]
    for model, tokens in [*((model, 6) for model in others), (endpoint(), 7)]:
        assert "a.jsonl" in refusal(ask, model, tmp_path / "a.jsonl", max_tokens=tokens)
    assert (tmp_path / "a.jsonl").read_bytes() == before and len(teller.requests) == 4
    ask(local, tmp_path / "b.jsonl", ["x"])
    with torch.no_grad():
        local.model.lm_head.weight[0, 0] += 1
    assert "b.jsonl" in refusal(ask, local, tmp_path / "b.jsonl", ["x"])
    # longer than the model reads
    assert "2048" in refusal(ask, local, tmp_path / "c.jsonl", ["Sea?", "word " * 2040])
    assert not (tmp_path / "c.jsonl").exists()


def greedy(local: Any, text: str, count: int) -> list[int]:
    """The likeliest tokens one by one, without a batch, padding or `generate`."""
    chat = [{"role": "user", "content": text}]
    prompt = local.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = local.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(local.model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[start:]


def test_a_local_model_answers_with_its_likeliest_tokens_and_a_stopped_run_goes_on(
    local, tmp_path, monkeypatch
):
    local.model.generation_config.update(do_sample=True, temperature=3.0, top_k=5)  # ignored
    generate, calls = local.model.generate, []

    def failing(**inputs: Any) -> Any:
        calls.append(len(inputs["input_ids"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(**inputs)

    monkeypatch.setattr(local.model, "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        ask(local, tmp_path / "a.jsonl")
    records = ask(local, tmp_path / "a.jsonl")
    assert calls == [2, 2, 2]  # the first two answers are not made again
    for record, text in zip(records, ASKED, strict=True):
        assert record["text"] == local.tokenizer.decode(greedy(local, text, 6)).strip()
        assert not record["finished"] and record["completion_tokens"] == 6
        assert record["prompt_tokens"] > 6 and record["source"] == "random"
    local.model.generation_config.eos_token_id = greedy(local, "Sea?", 1)
    (ended,) = ask(local, tmp_path / "b.jsonl", ["Sea?"])
    assert (ended["text"], ended["finished"], ended["completion_tokens"]) == ("", True, 0)
