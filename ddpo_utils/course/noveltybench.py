"""Real outputs: what people and GPT-4o answered to the 100 curated prompts of NoveltyBench.

The texts are not part of the course. `python -m ddpo_utils fetch --answers FOLDER` brings them from
github.com/novelty-bench/novelty-bench: of COMMIT the folder sample_data/, with a file for each
source, and of LABELS_COMMIT people's judgements of which answers are alike, data/train.jsonl and
data/val.jsonl, as labels-train.jsonl and labels-val.jsonl without the names of those who judged.
A clone at COMMIT has the answers, and not the labels.

Source: Zhang et al., "NoveltyBench", arXiv 2504.05228; MIT licence.
"""

from __future__ import annotations

import hashlib
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any
from urllib.request import urlopen

import pandas as pd
from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from ..corpus.text import words
from ..settings import CourseError
from ..storage.files import check_as, file_digest, parse_jsonl, read_jsonl, to_jsonl, write_text

__all__ = [
    "COMMIT",
    "DIGESTS",
    "SOURCES",
    "answers_folder",
    "asks_for_writing",
    "fetch_answers",
    "load_answers",
    "records_of",
]

COMMIT = "ff882fd3f2d6f895c6ada9a99e3b55d99967ec1d"
LABELS_COMMIT = "1fdd2578d9d93ed09e8866353ab926fd59b947b7"
REPOSITORY = "https://raw.githubusercontent.com/novelty-bench/novelty-bench"
LICENCE = "LICENSE"
LICENCE_DIGEST = "14e69e7fbb2f8fd0"
TIMEOUT = 60  # seconds of silence
DIGESTS = {  # first digits of the SHA-256 of each file; of the labels without names
    "humans": "4ea7927df8215e7f",
    "gpt-4o": "adc58f4b232ba6b6",
    "gpt-4o-in-context": "4bb59c9c3316e4ed",
    "gpt-4o-paraphrase": "1edb28217f328117",
    "gpt-4o-system-prompt": "f7a5a88ccebd803f",
    "labels-train": "dba70f5dad931ff9",
    "labels-val": "764c82a6014a2b67",
}
SOURCES = tuple(name for name in DIGESTS if not name.startswith("labels"))
REQUESTS = {"tell", "write", "describe"}
FORMS = {"story", "poem", "haiku", "fable", "plot", "biography", "backstory"}
ADVICE = "Fetch it again with `python -m ddpo_utils fetch --answers FOLDER`."

Text = Annotated[str, Field(pattern=r"\S")]


class _Answers(TypedDict):
    id: Text
    prompt: Text
    generations: Annotated[list[Text], Field(min_length=2)]


def asks_for_writing(prompt: str) -> bool:
    """Whether a prompt asks for a story or poem: it holds a word of REQUESTS and one of FORMS."""
    found = set(words(prompt))
    return bool(found & REQUESTS) and bool(found & FORMS)


def answers_folder(folder: str | Path) -> Path:
    """sample_data/ of a clone, or the folder itself; CourseError where no file of SOURCES lies."""
    for place in (Path(folder) / "sample_data", Path(folder)):
        if any((place / f"{source}.jsonl").is_file() for source in SOURCES):
            return place
    raise CourseError(
        f"{folder} holds no answers of NoveltyBench: name the folder that `python -m ddpo_utils "
        f"fetch --answers FOLDER` filled, or a clone of its repository at commit {COMMIT[:7]}."
    )


def load_answers(folder: str | Path) -> pd.DataFrame:
    """All answers: prompt_id, prompt, source (one of SOURCES), text, number (from 0).

    Every source has the same prompts, in the order of the people's file.

    Args:
        folder: a clone, or a folder with the files themselves.

    Raises:
        CourseError: a file is missing or damaged, or its prompts are not those of the others.
    """
    place = answers_folder(folder)
    prompts: dict[str, str] = {}
    parts = []
    for source in SOURCES:
        path = place / f"{source}.jsonl"
        records = records_of(list[_Answers], path)
        answers = {record["id"]: record["generations"] for record in records}
        asked = {record["id"]: record["prompt"] for record in records}
        prompts = prompts or asked
        if asked != prompts or len(records) != len(prompts):
            raise CourseError(f"{path} holds other prompts than {SOURCES[0]}.jsonl. {ADVICE}")
        for prompt_id, prompt in prompts.items():
            part = pd.DataFrame({"text": answers[prompt_id]})
            part = part.assign(prompt_id=prompt_id, prompt=prompt, source=source)
            parts.append(part.assign(number=part.index))
    columns = ["prompt_id", "prompt", "source", "text", "number"]
    return pd.concat(parts, ignore_index=True)[columns]


def fetch_answers(folder: str | Path, repository: str = REPOSITORY) -> None:
    """Bring the files of DIGESTS and their licence into a folder; right ones stay as they are.

    Args:
        repository: address below which a commit's files lie.

    Raises:
        CourseError: there is no network, or what came is not the recorded file.
    """
    for name, digest in (DIGESTS | {LICENCE: LICENCE_DIGEST}).items():
        path = Path(folder) / (LICENCE if name == LICENCE else f"{name}.jsonl")
        if path.is_file() and file_digest(path) == digest:
            continue
        address = f"{repository}/{_place(name)}"
        text = _download(address)
        if name.startswith("labels"):
            pairs = parse_jsonl(text, address)
            for pair in pairs:
                pair.pop("labeler", None)
            text = to_jsonl(pairs)
        if hashlib.sha256(text.encode()).hexdigest()[:16] != digest:
            raise CourseError(f"{address} is not the file that was recorded.")
        write_text(path, text)


def _place(name: str) -> str:
    """Commit and path of a file in the repository."""
    if name == LICENCE:
        return f"{LABELS_COMMIT}/{LICENCE}"
    if name.startswith("labels"):
        return f"{LABELS_COMMIT}/data/{name.removeprefix('labels-')}.jsonl"
    return f"{COMMIT}/sample_data/{name}.jsonl"


def _download(address: str) -> str:
    """The UTF-8 text at an address."""
    try:
        with urlopen(address, timeout=TIMEOUT) as answer:
            return answer.read().decode("utf-8")
    except (OSError, HTTPException, ValueError) as fault:
        raise CourseError(
            f"{address} could not be fetched ({fault}): try again where there is a network, and "
            "copy the folder here."
        ) from None


def records_of(kind: Any, path: Path) -> list[dict[str, Any]]:
    """The file's records of this kind, at least one; CourseError: it is missing or damaged."""
    if not path.is_file():
        raise CourseError(f"{path} is missing. {ADVICE}")
    records = check_as(kind, read_jsonl(path), path, ADVICE)
    if not records:
        raise CourseError(f"{path} is empty. {ADVICE}")
    return records
