"""An evaluation from a server: files of its own, no call twice, and the record says so."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from evaluated import LENIENT, contents, same
from faults import refusal
from teller import KEY, listed, plain_completion

from ddpo_utils import cli
from ddpo_utils.evaluation import scores
from ddpo_utils.evaluation.evaluate import evaluate, evaluation_prompts, find_adapters
from ddpo_utils.evaluation.scores import sample_rows
from ddpo_utils.models.endpoint import Endpoint
from ddpo_utils.models.sampling import read_samples

pytest_plugins = ["evaluation_fixtures"]

ROWS = ("start", "sft", "ddpo")


@pytest.fixture
def models(adapters):
    """Rows with their adapters."""
    found = find_adapters(adapters)
    return {row: found[row] for row in ROWS}


@pytest.fixture
def server(teller, monkeypatch):
    """An engine with the rows' adapters, and a key."""
    monkeypatch.setenv("MY_KEY", KEY)
    teller.models = listed("org/base", *ROWS[1:])
    teller.answer = lambda body, number: (200, plain_completion(f"The sea told story {number}."))
    return Endpoint("-", teller.url, key_variable="MY_KEY", retries=0, concurrency=4)


@pytest.fixture
def prompts(profile, stories):
    return evaluation_prompts(profile, stories)


def test_the_samples_are_the_servers_and_the_scores_the_local_models(
    run, copy, profile, models, stories, server, teller, capsys
):
    before = contents(copy)
    results = evaluate(profile, models, copy, stories, LENIENT, server=server)
    host = teller.url.removeprefix("http://").removesuffix("/v1")
    names = {"start": "org/base", "sft": "sft", "ddpo": "ddpo"}
    assert results["served"] == {row: [f"{names[row]} at {host} (vllm)"] for row in ROWS}
    assert Counter(body["model"] for body in teller.requests) == dict.fromkeys(names.values(), 15)
    assert all(KEY in body["authorization"] for body in teller.requests)
    for row, file in results["files"].items():
        frame = read_samples(copy / file)
        assert file.startswith(f"{row}-served-") and len(frame) == 15
        assert frame["text"].str.startswith("The sea told").all()
    assert results["rows"]["ddpo"]["means"]["kl"]["mean"] > 0 and results["plausible"]
    note = f"Sampled from a server: org/base at {host} (vllm), sft at {host} (vllm), "
    assert any(line.startswith(note) for line in results["notes"])
    assert note.partition(",")[0] in (copy / "results.md").read_text()
    # the local model's samples stay, and are not taken for the server's, nor the reverse
    assert before.items() <= contents(copy).items()
    asked = len(teller.requests)
    local = evaluate(profile, models, copy, stories, LENIENT)
    assert local["rows"]["ddpo"] == run[0]["rows"]["ddpo"] and not local["served"]
    assert not any("server" in line for line in local["notes"])
    # a finished evaluation needs no server
    teller.close()
    assert same(evaluate(profile, models, copy, stories, LENIENT, server=server), results)
    assert len(teller.requests) == asked
    everything = b"".join(path.read_bytes() for path in copy.rglob("*") if path.is_file())
    everything += capsys.readouterr().out.encode()
    assert KEY.encode() not in everything


def test_a_run_broken_off_makes_the_missing_calls_only(
    profile, models, prompts, server, teller, tmp_path
):
    right = teller.answer
    fault = 500, {"error": {"message": "out of memory"}}
    teller.answer = lambda body, number: right(body, number) if number < 20 else fault
    assert "out of memory" in refusal(sample_rows, profile, models, prompts, tmp_path, server)
    stored = [read_samples(path) for path in tmp_path.glob("*.jsonl")]
    assert sum(map(len, stored)) == 20
    teller.requests.clear()
    teller.answer = lambda body, number: right(body, number + 100)
    teller.models = listed("org/base", "ddpo", "sft")
    paths = sample_rows(profile, models, prompts, tmp_path, server)
    assert len(teller.requests) == 25 and list(tmp_path.iterdir()) == [*tmp_path.glob("*-served-*")]
    texts = Counter(text for path in paths.values() for text in read_samples(path)["text"])
    assert len(texts) == 45
    # the prompts of a row are in order, whatever came first
    assert read_samples(paths["start"])["sample"].tolist() == [0, 1, 2] * 5
    # what does not change a server's samples makes no new ones, and the rest does
    for changes, calls in (({"sample_batch": 2, "seed": 1}, 0), ({"max_new_tokens": 9}, 45)):
        teller.requests.clear()
        sample_rows(replace(profile, **changes), models, prompts, tmp_path, server)
        assert len(teller.requests) == calls


def test_processes_share_the_rows_whichever_is_late(
    profile, models, prompts, server, teller, tmp_path, monkeypatch
):
    asked = []
    for rank in (1, 0):
        state = {"process_index": rank, "num_processes": 2, "wait_for_everyone": lambda: None}
        monkeypatch.setattr(scores, "process", lambda state=state: SimpleNamespace(**state))
        teller.requests.clear()
        sample_rows(profile, models, prompts, tmp_path, server)
        asked.append({body["model"] for body in teller.requests})
    assert asked == [{"sft"}, {"org/base", "ddpo"}]


def test_the_command_names_the_server(monkeypatch):
    calls = []
    place = "ddpo_utils.evaluation.evaluate.evaluate_adapters"
    monkeypatch.setattr(place, lambda *args: calls.append(args))
    flags = ["--base-url", "http://gpu:8000/v1", "--key-variable", "MY_KEY", "--concurrency", "9"]
    assert cli.main(["evaluate", *flags]) == 0 and cli.main(["evaluate"]) == 0
    server = calls[0][-1]
    assert (server.host, server.key_variable, server.concurrency) == ("gpu:8000", "MY_KEY", 9)
    assert calls[1][-1] is None
