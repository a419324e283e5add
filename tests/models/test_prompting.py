"""Prompts are checked once, and answers are read as models write them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ddpo_utils import CourseError
from ddpo_utils.models.prompting import check_prompts, read_prompts, stories


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
    ("answer", "whole"),
    [("<response><text>a</text><probability>0.", True), ("<response><text>a", False)],
)
def test_a_cut_answers_last_story_is_whole_if_its_text_was_closed(answer, whole):
    assert stories(answer, False, "verbalised", 1)[0]["finished"] is whole


def test_prompts_are_read_from_jsonl(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"prompt_id": 1, "prompt": "Sea."}\n\n{"prompt_id": "b", "prompt": "é", "x": 0}'
    )
    assert read_prompts(path).to_dict("list") == {"prompt_id": [1, "b"], "prompt": ["Sea.", "é"]}


GOOD = '{"prompt_id": 1, "prompt": "Sea."}\n'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        GOOD + "[1]",
        '{"prompt_id": "a"}',
        GOOD + '{"prompt_id": "b", "prompt": 5}',
        GOOD + '{"prompt_id": "b", "prompt": " "}',
        GOOD + '{"prompt": "Sea."}',
        GOOD + '{"prompt_id": [1], "prompt": "Sea."}',
        GOOD + GOOD,
    ],
)
def test_bad_prompts_are_refused_and_the_file_is_named(tmp_path, content):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(CourseError, match=r"p\.jsonl"):
        read_prompts(tmp_path / "p.jsonl")


def test_a_bad_prompt_is_named():
    with pytest.raises(CourseError, match=r"Prompt 2 .*'b'"):
        check_prompts(pd.DataFrame({"prompt_id": ["a", "b"], "prompt": ["Sea.", None]}))
