"""A corpus is embedded once: kills, later texts, several processes, cut texts, full disks and damaged files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from ddpo_utils import CourseError, load_encoder, load_stories
from ddpo_utils.embeddings import corpus_cache as embedding
from ddpo_utils.embeddings.corpus_cache import embed_corpus
from ddpo_utils.embeddings.shards import claim, contents

STORIES = load_stories()["text"].tolist()
CHILD = """
import sys
from pathlib import Path
from ddpo_utils import load_stories
from ddpo_utils.embeddings import corpus_cache as embedding
if __name__ == "__main__":
    folder, embedding.SHARD, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    embedding.embed_corpus(load_stories()["text"], "stylometric", folder, processes=processes)
"""


def start(folder: Path, shard: int, processes: int = 1, **env: str) -> subprocess.Popen:
    """embed_corpus of the stories in a process of its own, one thread, as a reader's script runs it."""
    script = folder.with_name("embed.py")
    script.write_text(CHILD)
    command = [sys.executable, str(script), str(folder), str(shard), str(processes)]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )


def shards(folder: Path) -> dict[str, int]:
    """Finished shards of a folder, by name, with their time stamps."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*/*.npz")}


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


class Counting:
    """Encodes a text by its characters, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked = []

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        self.asked.append(list(sentences))
        rows = np.array(
            [np.bincount([ord(c) % 8 for c in t], minlength=8) + 0.5 for t in sentences], np.float32
        )
        return rows.reshape(-1, 8) / np.linalg.norm(rows.reshape(-1, 8), axis=1, keepdims=True)


@pytest.fixture
def counting(monkeypatch) -> Counting:
    """An encoder that needs no model; shards of 4 texts."""
    from ddpo_utils.embeddings.encoders import CachedEncoder

    encoder = Counting()
    monkeypatch.setattr(embedding, "load_encoder", lambda name: CachedEncoder(encoder, name))
    monkeypatch.setattr(embedding, "SHARD", 4)
    return encoder


@pytest.mark.parametrize("name", ["minilm", "wordllama", "stylometric", "delta"])
@pytest.mark.parametrize("half", [True, False])
def test_rows_are_the_encoder_s_in_the_order_of_the_texts(tmp_path, name, half):
    texts = [*STORIES[:12], "", "🙂 half a pair \ud83d", STORIES[3], STORIES[0]]
    rows = embed_corpus(texts, name, tmp_path, half=half)
    plain = load_encoder(name).encoder.encode(texts)
    assert isinstance(rows, np.memmap) and rows.dtype == (np.float16 if half else np.float32)
    assert np.allclose(np.linalg.norm(rows.astype(float), axis=1), 1, atol=1e-3 if half else 1e-6)
    cosines = rows.astype(np.float32) @ rows.astype(np.float32).T
    assert np.allclose(cosines, plain @ plain.T, atol=1e-2 if half else 1e-5)
    assert np.array_equal(rows[3], rows[14]) and np.array_equal(rows[0], rows[15])


def test_each_distinct_text_is_embedded_once_and_longest_first(tmp_path, counting):
    texts = ["dd" * 4, "a", "ccc", "a", "bb", "eeeee", "a", "ff" * 9]
    rows = embed_corpus(texts, "x", tmp_path)
    assert counting.asked == [["ffffffffffffffffff", "dddddddd", "eeeee", "ccc"], ["bb", "a"]]
    assert np.allclose(rows, Counting().encode(texts), atol=1e-3)
    assert (
        np.array_equal(embed_corpus(texts[::-1], "x", tmp_path), rows[::-1])
        and len(counting.asked) == 2
    )
    more = embed_corpus([*texts, "late", "a"], "x", tmp_path)
    assert counting.asked[2:] == [["late"]] and np.array_equal(more[:8], rows)
    embed_corpus(["ccc", "late"], "other", tmp_path)
    assert counting.asked[3:] == [["late", "ccc"]]  # another encoder's rows are not taken
    embed_corpus(["ccc"], "x", tmp_path, half=False)
    assert counting.asked[4:] == [["ccc"]]  # nor those of another number type


def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "rows"
    child = start(folder, 2, processes=2)
    wait_for(lambda: len(shards(folder)) >= 2)
    workers = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    child.wait()
    assert len(workers) >= 2
    wait_for(
        lambda: not any(worker.is_running() for worker in workers)
    )  # none waits for work for ever
    done = shards(folder)
    assert 2 <= len(done) < 360
    monkeypatch.setattr(embedding, "SHARD", 2)
    rows = embed_corpus(STORIES, "stylometric", folder)
    assert {name: shards(folder)[name] for name in done} == done  # nothing is done twice
    assert len(shards(folder)) == 360  # and nothing is cut otherwise than at first
    assert np.array_equal(rows, embed_corpus(STORIES, "stylometric", tmp_path / "whole"))
    assert shards(folder).keys() == shards(tmp_path / "whole").keys()
    assert not [path for path in folder.rglob("*") if path.suffix in (".part", ".lock")]


def test_the_living_take_over_from_a_killed_process(tmp_path):
    """Two ranks on one folder; one is killed while it embeds, and its locks go with it."""
    folder = tmp_path / "rows"
    ranks = [
        start(folder, 2, WORLD_SIZE="2", RANK=str(i), LOCAL_RANK=str(i), TQDM_DISABLE="")
        for i in range(2)
    ]
    wait_for(lambda: len(shards(folder)) >= 20)
    ranks[0].kill()
    ranks[0].communicate()
    _, errors = ranks[1].communicate(timeout=300)
    assert ranks[1].returncode == 0, errors
    assert "char" not in errors  # rank 0 alone shows the time
    assert len(shards(folder)) == 360
    rows = np.load(next(folder.glob("*/rows-*.npy")))
    assert np.array_equal(rows, embed_corpus(STORIES, "stylometric", tmp_path / "one"))


def test_a_worker_that_is_ended_is_said_in_one_sentence(tmp_path):
    folder = tmp_path / "rows"
    child = start(folder, 2, processes=2)
    wait_for(lambda: len(shards(folder)) >= 1)
    workers = [
        p for p in psutil.Process(child.pid).children() if "spawn_main" in " ".join(p.cmdline())
    ]
    workers[0].kill()
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 1
    assert (
        "CourseError: A process that embedded was ended" in errors and "fewer processes" in errors
    )


def test_each_worker_takes_a_gpu_of_its_own(monkeypatch):
    """What the workers rely on: sentence-transformers takes the device that LOCAL_RANK names."""
    import torch
    from sentence_transformers.util import get_device_name

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert get_device_name() == "cuda:3"


def test_a_claimed_shard_is_waited_for(tmp_path, counting, monkeypatch):
    embed_corpus(["a", "bb"], "x", tmp_path)
    (path,) = tmp_path.glob("*/*.npz")
    content = path.read_bytes()
    path.unlink()
    counting.asked.clear()  # while this run sleeps the other ends
    monkeypatch.setattr(embedding.time, "sleep", lambda seconds: path.write_bytes(content))
    with claim(path):
        with claim(path) as second:
            assert not second
        rows = embed_corpus(["a", "bb"], "x", tmp_path)
    assert counting.asked == [] and rows.shape == (2, 8)


def test_cut_texts_are_counted_once_for_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "SHARD", 2)
    texts = ["word " * 300, "short", "some " * 400, "word " * 300, "brief", "thing " * 270]
    for _ in range(2):  # the second time nothing is embedded, and it is said as well
        with pytest.warns(UserWarning) as said:
            embed_corpus(texts, "minilm", tmp_path)
        assert [str(w.message) for w in said] == ["minilm reads 256 tokens: 3 of 5 texts are cut."]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        embed_corpus(["short", "brief"], "minilm", tmp_path)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system's own error as a file grows too large."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(
            CourseError, match=r"cannot be written \(File too large\): free space .* are kept"
        ) as said:
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(said.value)


def test_a_full_disk_is_one_sentence_and_costs_nothing(tmp_path, counting):
    texts = ["x" * n for n in range(1, 13)]
    embed_corpus(texts[4:], "x", tmp_path)
    done = shards(tmp_path)
    with largest_file(600):
        embed_corpus(texts, "x", tmp_path)
    assert shards(tmp_path) == done and not list(tmp_path.rglob("*.part"))
    rows = embed_corpus(texts, "x", tmp_path)
    assert (
        np.allclose(rows, Counting().encode(texts), atol=1e-3)
        and shards(tmp_path).items() > done.items()
    )


def test_a_disk_that_is_full_for_the_rows_keeps_the_shards(tmp_path, counting):
    texts = [f"{i:04d}" for i in range(400)]
    with largest_file(4000):  # each shard fits, the 6,400 bytes of rows do not
        embed_corpus(texts, "x", tmp_path)
    assert len(shards(tmp_path)) == 100 and not list(tmp_path.rglob("rows-*.np?"))
    counting.asked.clear()
    assert embed_corpus(texts, "x", tmp_path).shape == (400, 8) and counting.asked == []


@pytest.mark.parametrize("damage", [b"", b"no archive at all", None])
def test_a_damaged_shard_is_named(tmp_path, counting, damage):
    embed_corpus(["a", "bb"], "x", tmp_path)
    (path,) = tmp_path.glob("*/*.npz")
    path.write_bytes(path.read_bytes()[:200] if damage is None else damage)
    with pytest.raises(CourseError, match=rf"{path.name} is damaged: delete it and call again"):
        embed_corpus(["a", "bb"], "x", tmp_path)
    path.unlink()
    assert embed_corpus(["a", "bb"], "x", tmp_path).shape == (2, 8)


def test_what_cannot_be_embedded_is_one_sentence_and_an_empty_corpus_has_a_width(
    tmp_path, counting
):
    with pytest.raises(CourseError, match=r"Text 1 is nan, not a text"):
        embed_corpus(["a", float("nan")], "x", tmp_path)
    assert embed_corpus([], "x", tmp_path).shape == (0, 8)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CourseError, match=r"cannot be written .*name another folder"):
        embed_corpus(["a"], "x", tmp_path / "file")


def test_the_rows_cannot_be_written_to_and_the_cache_is_the_default(
    tmp_path, counting, monkeypatch
):
    monkeypatch.setenv("DDPO_CACHE", str(tmp_path))
    rows = embed_corpus(["a", "bb"], "org/name", half=False)
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0
    assert set(contents(tmp_path / "embeddings" / "org_name-float32-float32")) == {
        embedding.text_key("a"),
        embedding.text_key("bb"),
    }
