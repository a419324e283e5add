"""Samples from a server of one's own: what it is asked, and under which names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import refusal
from teller import PROMPTS, listed, plain_completion

from ddpo_utils import get_profile
from ddpo_utils.models.calls import ENGINES, SERVE
from ddpo_utils.models.endpoint import Endpoint, served_models
from ddpo_utils.models.policy import load_policy, load_stops
from ddpo_utils.models.prompting import render
from ddpo_utils.models.sampling import read_samples, sample_served

REFUSED = {"detail": "Unexpected fields in the request: {'top_k'}"}  # as transformers 5.23 says it


@pytest.fixture
def tokenizer_and_stops(tiny_folder: Path) -> tuple[Any, list[int]]:
    return load_stops(get_profile("8b", model=str(tiny_folder), tokenizer=""))


@pytest.fixture
def sample(teller, tokenizer_and_stops, tmp_path) -> Callable[..., Any]:
    """Two samples of each prompt from an engine, as a frame."""

    def call(engine: str = "vllm") -> Any:
        path = tmp_path / f"{engine}.jsonl"
        address = teller.url.replace("http://", "http://me:secret@")  # stored nowhere
        endpoint = Endpoint("ddpo", address, retries=0)
        sample_served(endpoint, engine, *tokenizer_and_stops, PROMPTS, path, 2, 40)
        return read_samples(path)

    return call


def test_the_stops_are_those_of_the_local_model(tiny_folder, tokenizer_and_stops, tmp_path):
    profile = get_profile("8b", model=str(tiny_folder), tokenizer="", dtype="float32")
    model, _ = load_policy(profile)
    assert tokenizer_and_stops[1] == model.generation_config.eos_token_id
    for file in tiny_folder.iterdir():
        if file.name != "generation_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    without = get_profile("8b", model=str(tmp_path), tokenizer="")
    assert load_stops(without)[1] == tokenizer_and_stops[1]
    assert "nowhere" in refusal(load_stops, get_profile("8b", model="nowhere", tokenizer=""))


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_get_the_tokens_of_the_chat_template_and_the_papers_decoding(
    teller, sample, tokenizer_and_stops, engine
):
    tokenizer, stops = tokenizer_and_stops
    reasons = ["length", "abort", *["stop"] * 8]
    teller.answer = lambda body, number: (
        200,
        plain_completion(f" {number} <|end|>", reasons[number]),
    )
    frame = sample(engine)
    assert frame["prompt_id"].tolist() == [p for p in PROMPTS["prompt_id"] for _ in range(2)]
    assert set(frame["text"]) == {str(number) for number in range(10)}
    assert set(frame["text"][~frame["finished"]]) == {"0", "1"} and (frame["tokens"] == 7).all()
    host = teller.url.removeprefix("http://").removesuffix("/v1")
    assert set(frame["source"]) == {f"ddpo at {host} ({engine})"}
    texts = render(tokenizer, PROMPTS["prompt"])
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert sorted(body["prompt"] for body in teller.requests) == sorted(prompts * 2)
    for body in teller.requests:
        assert body["path"] == "/v1/completions" and body["model"] == "ddpo"
        assert body["stop_token_ids"] == stops == [tokenizer.convert_tokens_to_ids("<|end|>")]
        assert (body["temperature"], body["top_p"], body["top_k"]) == (1.0, 0.95, 50)
        assert (body["repetition_penalty"], body["max_tokens"]) == (1.1, 40)


@pytest.mark.parametrize("adds_a_token", [False, True])
def test_transformers_serve_gets_a_text_that_its_tokenizer_turns_into_the_same_tokens(
    teller, sample, tokenizer_and_stops, adds_a_token
):
    from tokenizers.processors import TemplateProcessing

    tokenizer, stops = tokenizer_and_stops
    texts = render(tokenizer, PROMPTS["prompt"])
    right = [tokenizer(text)["input_ids"] for text in texts]
    if adds_a_token:
        first = [("<|start|>", tokenizer.bos_token_id)]
        added = TemplateProcessing(single="<|start|> $A", special_tokens=first)
        tokenizer.backend_tokenizer.post_processor = added
    teller.answer = lambda body, number: (200, plain_completion("Once."))
    sample(SERVE)
    sent = {body["prompt"]: body for body in teller.requests}
    assert sorted(tokenizer(text)["input_ids"] for text in sent) == sorted(right)
    for body in sent.values():
        settings = json.loads(body["generation_config"])
        assert settings["eos_token_id"] == stops and settings["max_new_tokens"] == 40
        assert settings["do_sample"] and settings["pad_token_id"] == tokenizer.pad_token_id
        assert (settings["top_k"], settings["repetition_penalty"]) == (50, 1.1)
        assert "top_k" not in body


def test_no_refusal_of_a_server_counts_as_a_failed_story(teller, sample, tmp_path):
    """As for a prompt that is longer than what the server was started for."""
    fault = 400, {"error": {"message": "unsafe: the maximum context length is 8", "code": 400}}
    teller.answer = lambda body, number: fault if number else (200, plain_completion("Once."))
    assert "context length" in refusal(sample)
    assert len(read_samples(tmp_path / "vllm.jsonl")) < 10
    teller.answer = lambda body, number: (200, plain_completion("Twice."))
    assert len(sample()) == 10


def test_a_file_is_continued_by_the_same_engine_alone(teller, sample, tmp_path):
    fault = 500, {"error": {"message": "broken"}}
    teller.answer = lambda body, number: (200, plain_completion("Once.")) if number < 3 else fault
    refusal(sample)
    stored = len(read_samples(tmp_path / "vllm.jsonl"))
    assert stored == 3
    (tmp_path / "vllm.jsonl").rename(tmp_path / "sglang.jsonl")
    assert "sglang.jsonl" in refusal(sample, "sglang")
    (tmp_path / "sglang.jsonl").rename(tmp_path / "vllm.jsonl")
    teller.answer = lambda body, number: (200, plain_completion("Twice."))
    teller.requests.clear()
    assert len(sample()) == 10 and len(teller.requests) == 10 - stored


def test_a_row_is_asked_for_by_its_name_and_one_without_an_adapter_as_the_base(teller):
    adapters = {"start": None, "ddpo": Path("ddpo")}
    endpoint = Endpoint("-", teller.url, retries=0)
    teller.models = listed("org/base", "ddpo", "sft")
    assert served_models(endpoint, adapters) == ("vllm", {"start": "org/base", "ddpo": "ddpo"})
    teller.models = listed("org/base", "ddpo", engine="sglang")
    names = {"start": "org/base", "ddpo": "org/base:ddpo"}
    assert served_models(endpoint, adapters) == ("sglang", names)
    assert not teller.requests
    teller.models = [{"id": "ddpo", "owned_by": ""}, {"id": "other"}, {"id": "start"}]
    teller.answer = lambda body, number: (422, REFUSED)
    assert served_models(endpoint, adapters) == (SERVE, {"start": "start", "ddpo": "ddpo"})


def test_what_a_server_lacks_is_named_in_one_sentence(teller, adapter_folder, tmp_path):
    adapters = {"start": None, "sft": Path("a/sft"), "ddpo": Path("a/ddpo")}
    endpoint = Endpoint("-", teller.url.replace("http://", "http://me:secret@"), retries=0)
    teller.models = listed("org/base", "ddpo")
    message = refusal(served_models, endpoint, adapters)
    assert "lists org/base, ddpo" in message and "sft=a/sft as well" in message
    teller.models = [{"id": "sft", "owned_by": ""}]
    teller.answer = lambda body, number: (422, REFUSED)
    message = refusal(served_models, endpoint, adapters)
    assert "start ddpo=a/ddpo as well" in message and "secret" not in message
    teller.models = []
    assert "lists no model" in refusal(served_models, endpoint, adapters)
    # another adapter under the name, or the right one
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    tensors = adapter_folder / "adapter_model.safetensors"
    (tmp_path / tensors.name).write_bytes(tensors.read_bytes())
    teller.models = listed("org/base", ddpo=tmp_path)
    assert str(tmp_path) in refusal(served_models, endpoint, {"ddpo": adapter_folder})
    teller.models = listed("org/base", ddpo=adapter_folder)
    assert served_models(endpoint, {"ddpo": adapter_folder})[1] == {"ddpo": "ddpo"}


@pytest.mark.parametrize("models", [[{"id": "m", "owned_by": "openai"}], [], [7], None, "<html>"])
@pytest.mark.parametrize("status", [200, 404, 422])
def test_a_server_that_may_ignore_how_to_sample_is_refused(teller, models, status):
    teller.models = models
    teller.answer = lambda body, number: (status, plain_completion("Once."))
    message = refusal(served_models, Endpoint("-", teller.url), {"ddpo": Path("ddpo")})
    assert "vllm, sglang and transformers serve" in message


def test_an_absent_server_is_named_in_one_sentence(teller):
    endpoint = Endpoint("-", teller.url)
    teller.close()
    message = refusal(served_models, endpoint, {"ddpo": Path("ddpo")})
    assert "does a server run there?" in message and endpoint.host in message
