"""A warning where an encoder was made for English and the texts are not."""

from __future__ import annotations

import warnings

import pytest

from ddpo_utils import load_stories
from ddpo_utils.embeddings.encoders import embed_corpus
from ddpo_utils.embeddings.language import (
    reads_english_alone,
    seem_english,
    warn_if_not_english,
)

OTHERS = {
    "German": "Der Wärter wartete die ganze Nacht, doch niemand kam; er sah auf das dunkle Meer. ",
    "Spanish": "El guardián esperó toda la noche y no vino nadie. No sabía lo que buscaba allí. ",
    "Chinese": "灯塔看守人等了一整夜，没有人来。他点亮了灯，望着黑暗的大海。",
    "Polish": "Latarnik czekał całą noc i nikt nie przyszedł. To nie było to, czego szukał. ",
    "Norwegian": "Fyrvokteren ventet hele natten, og ingen kom. For her var det mørkt. ",
    "Russian": "Смотритель маяка ждал всю ночь, и никто не пришёл. Он смотрел на море. ",
}


@pytest.mark.parametrize("language", OTHERS)
def test_other_languages_are_told_from_english(language, tmp_path):
    texts = [OTHERS[language]] * 4
    assert not seem_english(texts)
    assert not seem_english([f"{text} {n}" for n in range(300) for text in texts])
    with pytest.warns(UserWarning, match="delta"):
        embed_corpus(texts, "delta", tmp_path)


def test_english_of_every_length_gives_no_warning(monkeypatch):
    comments = ["Loved it.", "The waiter was rude.", "Best pizza in town!", "Not for my kids."] * 9
    review = (
        "Arrived late, box damaged, but product works great. Service replied quickly. Would buy."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for texts in ([], ["Rain."], ["灯塔"], comments, [review] * 9, ["1 2 3"] * 99):
            warn_if_not_english(texts, "minilm", "stylometric")
        warn_if_not_english(load_stories()["text"].tolist(), "wordllama")
        warn_if_not_english([OTHERS["German"]] * 9, "BAAI/bge-m3", "/home/anna/encoder")
        monkeypatch.setenv("RANK", "1")
        warn_if_not_english([OTHERS["German"]] * 9, "minilm")


@pytest.mark.parametrize(
    ("name", "english"),
    [
        ("wordllama", True),
        ("BAAI/bge-small-en-v1.5", True),
        ("AnnaWegmann/Style-Embedding", True),
        ("sentence-transformers/all-MiniLM-L12-v2", True),
        ("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", False),
        ("jinaai/jina-embeddings-v3", False),
        ("/home/anna/encoder", False),
    ],
)
def test_an_encoder_s_name_says_what_it_reads(name, english):
    assert reads_english_alone(name) == english
