"""The store of answers: no answer is lost or asked for again, and no other file is touched."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import largest_file, refusal

from ddpo_utils.settings import CourseError
from ddpo_utils.storage.answer_store import AnswerStore, Key
from ddpo_utils.storage.files import read_jsonl

PROMPTS = {"a": "Sea.", "b": "Élodie 🙂\u2028"}
CALLS = [[("a", 0), ("a", 1)], [("a", 2), ("b", 0)], [("b", 1)]]  # the last call is shorter
KEYS = [key for call in CALLS for key in call]


def store(
    path: Path, run: str = "r", prompts: dict[str, str] = PROMPTS, rank: int = 0
) -> AnswerStore:
    calls = {key: call for call in CALLS for key in call}
    return AnswerStore(path, run, prompts, calls.__getitem__, "m", rank)


def answers(call: list[Key]) -> list[dict[str, object]]:
    return [{"text": f"{prompt_id}{number} 🙂"} for prompt_id, number in call]


def fill(path: Path, rank: int = 0, ranks: int = 1) -> tuple[int, list[dict[str, object]]]:
    """How many calls had to be made, and what `join` gives."""
    made = 0
    with store(path, rank=rank) as opened:
        for call in CALLS[rank::ranks]:
            if call[0] not in opened.records:
                opened.add(call[0], answers(call))
                made += 1
        return made, opened.join(KEYS)


def test_a_file_cut_at_any_byte_is_continued_and_ends_the_same(tmp_path: Path) -> None:
    fill(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    for cut in range(len(data) + 1):
        zeros = b"\0" * (cut % 2)  # a power cut leaves them
        (tmp_path / "s").write_bytes(data[:cut] + zeros)
        made, found = fill(tmp_path / "s")
        lines = data[:cut].count(b"\n")
        assert made == 3 - (lines >= 2) - (lines >= 4) - (lines >= 5), cut
        assert (tmp_path / "s").read_bytes() == data and len(found) == 5
    assert sorted(os.listdir(tmp_path)) == ["s", "whole"]


@pytest.mark.parametrize("ranks", [2, 5])
def test_processes_write_their_parts_and_the_last_joins_them(tmp_path: Path, ranks: int) -> None:
    fill(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    path = tmp_path / "s [1].jsonl"
    part = path.with_name(f"{path.name}.2")
    for rank in reversed(range(ranks)):
        _, found = fill(path, rank, ranks)
        if rank == 1:
            part.write_bytes(part.read_bytes() + b'{"prompt_id": "b", "pro')  # as a kill leaves it
    assert found == read_jsonl(path) and path.read_bytes() == data
    second = data.splitlines(keepends=True)[4].replace(b"b1", b"b9")
    part.write_bytes(second)  # as a killed join leaves it: the first counts
    assert fill(path)[0] == 0 and path.read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == [path.name, "whole"]


def swapped(data: bytes) -> bytes:
    first, second, *rest = data.splitlines(keepends=True)
    return b"".join([second, first, *rest])


@pytest.mark.parametrize(
    "content",
    [
        b"no newline",
        b"[1]\n",
        b"\xff\xfe\n",
        swapped,
        lambda data: data.split(b"\n", 1)[1],
        lambda data: data.replace(b'"a1 \xf0\x9f\x99\x82"', b"null"),
        lambda data: data.replace(b'"sample": 0', b'"sample": [0]'),
        lambda data: data + b'{"prompt_id"' + b":[" * 10**5 + b"\n",
        lambda data: data.replace(b"Sea.", b"Lake"),
        lambda data: data.replace(b'"run": "r"', b'"run": "q"'),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, content) -> None:
    fill(tmp_path / "mine.jsonl")
    before = content((tmp_path / "mine.jsonl").read_bytes()) if callable(content) else content
    (tmp_path / "mine.jsonl").unlink()
    for name in ("mine.jsonl", "mine.jsonl.2"):  # another process's part is checked too
        file = tmp_path / name
        file.write_bytes(before)
        with pytest.raises(CourseError, match=name):
            fill(tmp_path / "mine.jsonl")
        assert os.listdir(tmp_path) == [name] and file.read_bytes() == before
        file.unlink()


def test_threads_add_whole_calls_and_a_full_disk_takes_a_call_back(tmp_path) -> None:
    path = tmp_path / "s"
    with store(path) as opened:
        with ThreadPoolExecutor(2) as pool:
            error = pool.submit(fill, path).exception()  # a second writer
            assert isinstance(error, CourseError) and str(path) in str(error)
            list(pool.map(opened.add, KEYS[:4:2], map(answers, CALLS[:2])))
        data = path.read_bytes()
        with largest_file(len(data) + 9):
            assert str(path) in refusal(opened.add, KEYS[4], answers(CALLS[2]))
        assert path.read_bytes() == data and CALLS[2][0] not in opened.records
        opened.add(("b", 1), [{"text": "half \ud83d"}])
    assert fill(path)[1][-1]["text"] == "half \ud83d"
    with store(tmp_path / "t"):
        pass
    assert os.listdir(tmp_path) == ["s"]  # an empty file is removed
