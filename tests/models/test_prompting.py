"""Prompts are checked once, and answers are read as models write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import refusal

from ddpo_utils.models.prompting import read_prompts, stories


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<response><text>a\nb</text><probability>0.25</probability></response>", [("a\nb", 0.25)]),
        (
            "```\n<RESPONSE id=1>\n<Text> a </Text>\n<probability> 25% </RESPONSE>```",
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
        ("<think><text>no</text></think><response><text>a</text></response>", [("a", None)]),
        ("<think>never ends <response><text>no</text></response>", []),
        ("", []),
    ],
)
def test_verbalised_answers_are_read_as_models_write_them(answer, expected):
    found = stories(answer, True, "verbalised", 3)
    assert [(s["text"], s["probability"]) for s in found if not s["unreadable"]] == expected
    assert len(found) == 3 and all(not s["text"] for s in found[len(expected) :])


def test_a_cut_answers_last_story_is_whole_if_its_text_was_closed():
    for rest, whole in (("</text><probability>0.", True), ("", False)):
        (story,) = stories(f"<response><text>a{rest}", False, "verbalised", 1)
        assert story["finished"] is whole


GOOD = '{"prompt_id": 1, "prompt": "Sea."}\n'


def test_prompts_are_read_from_jsonl(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text(GOOD + '\n{"prompt_id": "b", "prompt": "é\\ud83d", "x": 0}')
    expected = {"prompt_id": [1, "b"], "prompt": ["Sea.", "é\ufffd"]}  # half an emoji
    assert read_prompts(path).to_dict("list") == expected


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "needs prompts"),
        (GOOD + "[1]", "Line 2"),
        ('{"prompt_id": "a"}', "'a'"),
        (GOOD + '{"prompt_id": "b", "prompt": " "}', "'b'"),
        (GOOD + '{"prompt": "Sea."}', "Prompt 2"),
        (GOOD + '{"prompt_id": [1], "prompt": "Sea."}', "Prompt 2"),
        (GOOD + GOOD, "Prompt 2"),
    ],
)
def test_bad_prompts_are_refused_and_the_file_is_named(tmp_path, content, named):
    (tmp_path / "p.jsonl").write_text(content)
    message = refusal(read_prompts, tmp_path / "p.jsonl")
    assert "p.jsonl" in message and named in message
