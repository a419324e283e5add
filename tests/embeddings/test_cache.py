"""A text is encoded once, whatever happens to the file of rows."""

from __future__ import annotations

import math
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from faults import refusal

from ddpo_utils import load_encoder, load_stories
from ddpo_utils.embeddings import cache
from ddpo_utils.embeddings.cache import CachedEncoder
from ddpo_utils.embeddings.encoders import embed_corpus
from ddpo_utils.storage.locks import locked


class Counting:
    """Encodes a text by its characters, keeps what it was asked, and cuts at 20 characters."""

    limit = 20

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def token_counts(self, texts: list[str]) -> np.ndarray:
        return np.array([len(text) for text in texts])

    def encode(self, texts: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        self.asked.append(list(texts))
        rows = np.full((len(texts), 8), 0.5, np.float32)
        for row, text in zip(rows, texts, strict=True):
            row += np.bincount([ord(character) % 8 for character in text], minlength=8)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CachedEncoder]:
    """Makes a new CachedEncoder of one file, with blocks of 4 texts."""
    monkeypatch.setattr(cache, "BLOCK", 4)

    def make(key: str = "key", dtype: type = np.float32) -> CachedEncoder:
        return CachedEncoder(Counting(), key, tmp_path / "rows", dtype)

    return make


def test_each_text_is_encoded_once_and_longest_first(cached, monkeypatch):
    monkeypatch.setattr(cache, "QUERY", 3)
    texts = ["dd" * 4, "a", "ccc", "a", "bb", "eeeee", "c\ud83d", "ff" * 9]
    first, plain = cached(), Counting().encode(texts)
    rows = first.encode(texts)
    assert first.encoder.asked == [["ff" * 9, "d" * 8, "eeeee", "ccc"], ["bb", "c\ud83d", "a"]]
    assert np.array_equal(rows, plain) and rows.dtype == np.float32
    second = cached()
    assert np.array_equal(second.encode(texts[::-1]), plain[::-1]) and second.encoder.asked == []
    rows[:] = 0  # what a caller does to its rows is not written back
    assert np.array_equal(second.encode(["late", "a"])[1:], plain[1:2])
    assert second.encoder.asked == [["late"]]
    assert second.encode([]).shape == (0, 8)
    for other in (cached("other"), cached(dtype=np.float16)):
        assert np.allclose(other.encode(["ccc"]), plain[2:3], atol=1e-3)
        assert other.encoder.asked == [["ccc"]] and other.encode(["ccc"]).dtype == other.dtype


def test_what_was_finished_before_a_fault_is_kept(cached, monkeypatch):
    texts = ["x" * n for n in range(1, 13)]
    broken = cached()
    encode = broken.encoder.encode
    answers = iter([encode(texts[8:][::-1]), encode(texts[4:8][::-1])])
    monkeypatch.setattr(broken.encoder, "encode", lambda part: next(answers))
    with pytest.raises(RuntimeError):  # the third block
        broken.encode(texts)
    again = cached()
    assert np.array_equal(again.encode(texts), encode(texts))
    assert again.encoder.asked == [texts[3::-1]]


def test_cut_texts_are_counted_once_whether_encoded_or_read(cached):
    texts = ["x" * 30, "short", "y" * 40, "x" * 30, "z" * 20]
    for _ in range(2):
        with pytest.warns(UserWarning) as caught:
            cached().encode(texts)
        (message,) = [str(warning.message) for warning in caught]
        assert "20 tokens" in message and "2 of 4 texts" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached().encode(["short", "z" * 20])


def run_sql(statement: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with closing(sqlite3.connect(path)) as file, file:
            file.execute(statement)

    return run


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no database at all" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"\x3f", b"\x3e")),  # bits of rows
        run_sql("UPDATE checked_rows SET row = zeroblob(7)"),
        run_sql("UPDATE checked_rows SET row = 'text'"),
        run_sql("UPDATE checked_rows SET cut = NULL"),
        run_sql("ALTER TABLE checked_rows RENAME row TO other"),
    ],
)
def test_a_damaged_file_costs_a_warning_and_no_result(cached, damage):
    texts = ["a", "b", "c"]
    cached().encode(texts)
    path = cached().path
    damage(path)
    again = cached()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert np.array_equal(again.encode(texts), Counting().encode(texts))
    assert again.encoder.asked == [texts]
    assert caught and all(str(path) in str(warning.message) for warning in caught)


@pytest.mark.parametrize(
    "given",
    [np.eye(1, 8), np.ones(2), np.eye(2) * math.nan, np.eye(2)[:, :0], [["a"], ["b"]], [[1], []]],
)
def test_what_is_no_row_for_each_text_is_refused_by_the_encoder_s_name(cached, monkeypatch, given):
    encoder = cached("named")
    monkeypatch.setattr(encoder.encoder, "encode", lambda texts: given)
    assert "named" in refusal(encoder.encode, ["aa", "b"])
    cached().encode(["a"])
    wider = cached()
    monkeypatch.setattr(wider.encoder, "encode", lambda texts: np.eye(1, 9))
    assert str(wider.path) in refusal(wider.encode, ["a", "b"])


def test_a_full_disk_costs_a_warning_and_no_result(cached, monkeypatch):
    cached().encode(["old"])
    full, connect = cached(), CachedEncoder._connect

    def limited(self: CachedEncoder):
        file = connect(self)
        file.execute("PRAGMA max_page_count = 3")  # SQLite's own error of a full disk
        return file

    monkeypatch.setattr(CachedEncoder, "_connect", limited)
    texts = ["old", *(str(i) for i in range(100))]
    with pytest.warns(UserWarning, match="full"):
        assert np.array_equal(full.encode(texts), Counting().encode(texts))
    monkeypatch.undo()
    after = cached()
    after.encode(["old"])
    assert after.encoder.asked == []


def test_a_folder_that_cannot_be_written_costs_a_warning_and_no_result(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="DDPO_CACHE"):
        rows = embed_corpus(["a", "b"], "delta", tmp_path / "file", half=False)
    assert np.array_equal(rows, load_encoder("delta").encoder.encode(["a", "b"]))


def test_what_is_no_text_is_refused_by_its_place(cached):
    assert "Text 1 is nan" in refusal(cached().encode, ["a", float("nan")])
    assert "None" in refusal(cached().encode, None)
    assert np.array_equal(cached().encode("a"), Counting().encode(["a"]))


@pytest.mark.parametrize("name", ["minilm", "wordllama", "stylometric", "delta"])
@pytest.mark.parametrize(("half", "error"), [(True, 1e-2), (False, 1e-5)])
def test_a_corpus_has_the_encoder_s_rows_in_the_order_of_the_texts(tmp_path, name, half, error):
    texts = [*load_stories()["text"][:4], "", "🙂 half a pair \ud83d"]
    texts += [texts[3], texts[0]]
    rows = embed_corpus(texts, name, tmp_path, half=half)
    assert rows.dtype == (np.float16 if half else np.float32)
    plain = load_encoder(name).encoder.encode(texts)
    cosines = rows.astype(np.float32) @ rows.astype(np.float32).T
    assert np.allclose(cosines, plain @ plain.T, atol=error)
    assert embed_corpus([], name, tmp_path, half=half).shape == (0, rows.shape[1])


def test_of_several_processes_one_encodes_and_the_others_wait(tmp_path):
    path = load_encoder("delta", tmp_path).path
    waiting = Thread(target=embed_corpus, args=[["a"], "delta", tmp_path, False])
    with locked(path):
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and not path.exists()
    waiting.join(60)
    assert path.exists()
