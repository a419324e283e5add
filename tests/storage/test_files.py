"""Files are written whole or not at all, and what cannot be read is named with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults import largest_file, refusal

from ddpo_utils.settings import CourseError
from ddpo_utils.storage.files import (
    SEAL,
    check_seal,
    file_digest,
    read_json,
    read_jsonl,
    replacing,
    seal,
    short_digest,
    text_key,
    write_json,
    write_jsonl,
    write_text,
)


def test_text_json_and_jsonl_come_back_and_parents_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "é\nline\u2028separator")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "é\nline\u2028separator".encode()
    write_json(tmp_path / "c" / "d.json", {"x": [1.5, "é"]})
    assert read_json(tmp_path / "c" / "d.json") == {"x": [1.5, "é"]}
    records = [{"text": "one\u2028two\x85three"}, {"text": "é", "n": None}, {"text": "half \ud83d"}]
    write_jsonl(tmp_path / "e.jsonl", records)
    assert read_jsonl(tmp_path / "e.jsonl") == [*records[:2], {"text": "half \ufffd"}]
    (tmp_path / "f.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n')
    assert read_jsonl(tmp_path / "f.jsonl") == [{"a": 1}, {"a": 2}]
    assert list(tmp_path.rglob("*.part")) == []


def test_a_fault_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        with replacing(path) as other:
            assert other != part
            other.write_text("old")
        part.write_text("half of the n")
        assert path.read_text() == "old"  # what a killed process leaves
        raise KeyboardInterrupt
    with largest_file(1000):  # a full disk
        assert str(path) in refusal(write_json, path, "new" * 1000)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]
    with replacing(tmp_path / "folder") as part:
        part.mkdir()
        (part / "inside").write_text("x")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "inside").read_text() == "x"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"a": 1}\n[2]\n', "Line 2 of"),
        (b'{"a": 1}\n\n{"a":\n{"a": 2}\n', "Line 3 of"),
        (b'{"a": 1}\n{"a": "half of a li', "Line 2 of .* is cut off"),
        ("{é}".encode("latin-1"), "f.jsonl"),
        (b'{"a": 1}\n' + b'{"a":' * 10**5, "Line 2 of"),
        (b'{"a": ' + b"9" * 5000 + b"}\n[", "Line 1 of"),
        (b'{"a": 1}\n\0\0\0\0', "Line 2 of"),
        (None, "f.jsonl"),
    ],
)
def test_faults_of_a_jsonl_file_name_file_and_line(
    tmp_path: Path, content: bytes | None, named: str
) -> None:
    path = tmp_path / "f.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CourseError, match=named):
        read_jsonl(path)
    with pytest.raises(CourseError, match=r"f\.jsonl"):
        read_json(path)


@pytest.mark.parametrize("place", ["pipe", "folder", "file/below", "x" * 300, "nul\0", "/dev/full"])
def test_what_is_no_place_for_a_file_is_refused_by_its_name(tmp_path: Path, place: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = sorted(os.listdir(tmp_path))
    assert repr(place)[1:-1] in refusal(write_text, tmp_path / place, "half \ud83d")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [("a", b"1"), ("deep/b", None), (SEAL, None), (SEAL, b""), (SEAL, b"{}"), (SEAL, b'["a"]')],
)
def test_a_folder_that_has_changed_is_refused_by_its_name(tmp_path, name, content) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"0" * 9)
    (tmp_path / "deep" / "b").touch()
    seal(tmp_path)
    check_seal(tmp_path)
    (tmp_path / "new").touch()  # such as a cache that a library leaves
    check_seal(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    assert str(tmp_path) in refusal(check_seal, tmp_path)


def test_digests_are_those_that_stored_files_carry(tmp_path: Path) -> None:
    assert short_digest("a", [1, None]) == "e59bf3c691"
    assert short_digest("a", [1, None], length=16).startswith("e59bf3c691")
    assert text_key("abc") == "ba7816bf8f01cfea414140de5dae2223"
    assert len(text_key("\ud800")) == 32
    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"c")
    assert file_digest(tmp_path / "a", tmp_path / "b") == "ba7816bf8f01cfea"
