"""The command `compare`: from two sample files to what raters get and what they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddpo_utils.cli import main
from ddpo_utils.corpus.stories import data_dir
from ddpo_utils.human_eval.comparisons import read_comparisons, read_key


def samples(path: Path, source: str, prompts: int = 3, words: int = 5, **other: object) -> Path:
    rows = [
        {
            "prompt_id": f"p{p}",
            "prompt": f"Prompt {p}.",
            "sample": k,
            "source": source,
            "text": f"{source} {p} {k} " + "word " * words,
        }
        | other
        for p in range(prompts)
        for k in range(4)
    ]
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    samples(tmp_path / "one.jsonl", "x")
    samples(samples(tmp_path / "two.jsonl", "y"), "z")
    return tmp_path


def test_it_makes_the_page_the_comparisons_and_the_key_and_says_what_to_do(
    folder: Path, capsys
) -> None:
    given = [
        "compare",
        "one.jsonl",
        "two.jsonl:z",
        "--names",
        "ddpo",
        "dpo",
        "--prompts",
        "2",
        "--output",
        "made",
    ]
    assert main(given) == 0
    said = capsys.readouterr()
    lines = said.out.replace("\\", "/").splitlines()
    assert len(lines) == 3 and not said.err
    assert (
        lines[0].startswith("2 comparisons, of 3 prompts")
        and "made/for_raters/comparisons.html" in lines[0]
    )
    assert (
        "made/key.json" in lines[1]
        and "into made/ratings; `python -m ddpo_utils ratings made`" in lines[2]
    )
    assert (folder / "made" / "ratings").is_dir()
    made = sorted(
        str(path.relative_to(folder)) for path in (folder / "made").rglob("*") if path.is_file()
    )
    assert [name.replace("\\", "/") for name in made] == [
        "made/for_raters/comparisons.html",
        "made/for_raters/comparisons.json",
        "made/key.json",
    ]
    comparisons = read_comparisons("made/for_raters/comparisons.json")
    key = read_key("made/key.json", comparisons)
    assert key["systems"] == ["ddpo", "dpo"]
    for item in comparisons.items:  # the texts of this test tell their own origin
        sides = {
            key["items"][item["item"]][side]: {text[0] for text in item[side]} for side in "AB"
        }
        assert sides == {"ddpo": {"x"}, "dpo": {"z"}}
    page = (folder / "made" / "for_raters" / "comparisons.html").read_text(encoding="utf-8")
    assert comparisons.id in page and "ddpo" not in page.replace("ddpo-ratings", "").replace(
        "ddpo_utils", ""
    )
    assert main(given) == 0  # the same again
    assert main([*given, "--seed", "1"]) == 1 and "other comparisons" in capsys.readouterr().err


def test_the_recorded_samples_get_their_prompts_from_the_course(capsys) -> None:
    recorded = data_dir() / "results" / "samples.jsonl"
    assert (
        main(["compare", f"{recorded}:ddpo-28", f"{recorded}:dpo-28", "--names", "ddpo", "dpo"])
        == 0
    )
    assert capsys.readouterr().out.startswith("10 comparisons, of 40 prompts")
    assert all(
        item["prompt"]
        for item in read_comparisons("build/compare/for_raters/comparisons.json").items
    )


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("two.jsonl", "stories of y, z: pick one, as in 'two.jsonl:y'"),
        ("two.jsonl:w", "no source 'w', only y, z"),
        ("three.jsonl", "There is no file three.jsonl: check the path."),
        ("three.jsonl:x", "There is no file three.jsonl:x: check the path."),
        (".", "There is no file .: check the path."),
        ("note.txt", "Line 1 of note.txt is no JSON object: name a file of samples"),
        ("indented.json", "Line 1 of indented.json is no JSON object"),
        ("list.jsonl", "list.jsonl holds no samples: each line needs prompt_id and text"),
        ("binary", "binary is no text in UTF-8"),
        (
            "one.jsonl",
            "one.jsonl and one.jsonl are the same stories: name the samples of two systems.",
        ),
        ("one.jsonl:x", "one.jsonl and one.jsonl:x are the same stories"),
        ("empty.jsonl", "each line needs prompt_id and text"),
        ("bare.jsonl", "lacks the prompts' texts"),
        ("seeds.jsonl", "several runs"),
    ],
)
def test_files_that_do_not_serve_are_refused_in_one_sentence(
    which: str, says: str, folder: Path, capsys
) -> None:
    (folder / "empty.jsonl").touch()
    (folder / "bare.jsonl").write_text(
        '{"prompt_id": "p0", "text": "A story."}\n', encoding="utf-8"
    )
    samples(samples(folder / "seeds.jsonl", "y", seed=1), "y", seed=2)
    (folder / "note.txt").write_text("A note.\n", encoding="utf-8")
    (folder / "indented.json").write_text('{\n "prompt_id": 1\n}\n', encoding="utf-8")
    (folder / "list.jsonl").write_text("[1]\n", encoding="utf-8")
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    assert main(["compare", "one.jsonl", which, "--names", "a", "b"]) == 1
    said = capsys.readouterr().err
    assert says in said and said.startswith("error: ") and said.count("\n") == 1
    assert not (folder / "build").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--names", "a", " "], "two names, and neither may be empty"),
        (["--names", "a", "a "], "two names"),
        (["--names", "a", "b", "--seed", "-1"], "The seed is 0 at least; got -1."),
        (["--names", "a", "b", "--output", "one.jsonl"], "one.jsonl is a file: name a folder."),
        (["--names", "a", "b", "--output", "one.jsonl/new"], "one.jsonl is a file: name a folder."),
    ],
)
def test_flags_that_do_not_serve_are_refused_in_one_sentence(
    flags: list[str], says: str, folder: Path, capsys
) -> None:
    assert main(["compare", "one.jsonl", "two.jsonl:y", *flags]) == 1
    said = capsys.readouterr().err
    assert says in said and said.startswith("error: ") and said.count("\n") == 1
    assert not (folder / "build").exists()


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        (3, "3 comparisons (10 were asked for; 3 prompts are in"),
        (1, "1 comparison (10 were asked for; 1 prompt is in"),
    ],
)
def test_fewer_prompts_than_asked_for_are_said(
    prompts: int, says: str, folder: Path, capsys
) -> None:
    samples(folder / "few.jsonl", "f", prompts)
    assert main(["compare", "one.jsonl", "few.jsonl", "--names", "a", "b"]) == 0
    assert capsys.readouterr().out.startswith(says)


@pytest.mark.parametrize(
    ("words", "other", "warned"),
    [(147, {}, False), (148, {}, True), (148, {"summarised": True}, False)],
)
def test_long_stories_are_said_unless_they_are_summaries(
    words, other, warned, folder: Path, recwarn
) -> None:
    samples(
        folder / "long.jsonl", "l", words=words, **other
    )  # each begins with three further words
    assert main(["compare", "one.jsonl", "long.jsonl", "--names", "a", "b"]) == 0
    said = [str(warning.message) for warning in recwarn]
    assert [
        "12 stories have more than 150 words, and a comparison has 636 to read" in text
        for text in said
    ] == ([True] * warned)
