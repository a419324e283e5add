"""Sets of four stories whose order in diversity is known, which a measure of diversity must answer rightly.

For every training prompt (a choice of measure is a choice, so no test prompt takes part), each set from the bundled
stories but the last two, which come from data/contrasts.jsonl:

    authors       four voices of twelve, drawn at random                                  the reference
    assistant     four of the six independent stories, all fifteen choices                 known to be less diverse
    length_25     the same authors' sets, every story cut to its first 25 words
    length_50     the same, cut to 50 words
    gibberish_1   the same authors' sets, one story replaced by random words of the corpus
    gibberish_4   as many sets of random words alone
    off_topic_1   the same authors' sets, one story replaced by its author's story of another prompt
    off_topic_4   one voice's stories of four prompts: four times off topic, in one manner
    paraphrase    four paraphrases of one of the authors' stories: one plot, one manner, other words
    same_plot     four retellings of one plot in other voices, with other names and places

All sets have one size, since most measures depend on it.
"""

from __future__ import annotations

import json
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import load_stories
from ..corpus.text import first_words, words
from ..embeddings.encoders import load_encoder
from ..settings import CourseError, data_dir

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CONTRASTS",
    "SIZE",
    "build_contrasts",
    "choose_threshold",
    "distinct_threshold",
    "load_contrasts",
]

SIZE = 4  # stories a set, as many as the paper samples of a prompt
CONTRASTS = {
    "length_25": "cut to 25 words",
    "length_50": "cut to 50 words",
    "gibberish_1": "one of random words",
    "gibberish_4": "all of random words",
    "off_topic_1": "one off topic",
    "off_topic_4": "four prompts, one voice",
    "paraphrase": "four paraphrases",
    "same_plot": "one plot, four voices",
}

Sets = dict[str, dict[str, list[list[str]]]]  # contrast -> prompt -> sets of SIZE texts


def load_contrasts() -> pd.DataFrame:
    """data/contrasts.jsonl: prompt_id, kind ("paraphrase" or "same_plot"), of (a story's id), n (1 to 4), text.

    Raises:
        CourseError: the file is not there.
    """
    import pandas as pd

    path = data_dir() / "contrasts.jsonl"
    if not path.is_file():
        raise CourseError("data/contrasts.jsonl is missing: take it from the repository again.")
    return pd.DataFrame(
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    )


def build_contrasts(draws: int = 20, seed: int = 0) -> Sets:
    """All sets, by contrast and prompt; the same at every call with the same arguments.

    Args:
        draws: random sets a prompt, for every contrast that is drawn.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    stories = load_stories()
    stories = stories[stories["split"] == "train"]
    authors = stories[stories["source"] == "authors"].pivot(
        index="prompt_id", columns="writer", values="text"
    )
    corpus = np.array([word for text in stories["text"] for word in words(text)])
    other = {prompt: authors.index.drop(prompt) for prompt in authors.index}
    out: Sets = {
        name: {prompt: [] for prompt in authors.index}
        for name in ("authors", "assistant", *CONTRASTS)
    }

    def gibberish(text: str) -> str:
        return " ".join(rng.choice(corpus, len(words(text))))

    for prompt in authors.index:
        plain = stories.loc[
            (stories["source"] == "assistant") & (stories["prompt_id"] == prompt), "text"
        ]
        out["assistant"][prompt] = [list(four) for four in combinations(plain, SIZE)]
        nonsense = {writer: gibberish(text) for writer, text in authors.loc[prompt].items()}
        for _ in range(draws):
            voices = rng.choice(authors.columns, SIZE, replace=False)
            own = authors.loc[prompt, voices].tolist()
            strange = authors.loc[rng.choice(other[prompt]), voices[0]]
            far = [prompt, *rng.choice(other[prompt], SIZE - 1, replace=False)]
            for name, texts in {
                "authors": own,
                "length_25": [first_words(text, 25) for text in own],
                "length_50": [first_words(text, 50) for text in own],
                "gibberish_1": [nonsense[voices[0]], *own[1:]],
                "gibberish_4": [nonsense[voice] for voice in voices],
                "off_topic_1": [strange, *own[1:]],
                "off_topic_4": authors.loc[far, rng.choice(authors.columns)].tolist(),
            }.items():
                out[name][prompt].append(texts)
    for (kind, prompt), group in load_contrasts().sort_values("n").groupby(["kind", "prompt_id"]):
        out[kind][prompt] = [group["text"].tolist()]
    return {
        name: {prompt: sets for prompt, sets in sets_of.items() if sets}
        for name, sets_of in out.items()
    }


def choose_threshold(alike: np.ndarray, apart: np.ndarray) -> float:
    """The cosine that best tells pairs that count as one from pairs that do not: the largest sum of the two shares
    that it gets right, half way to the next lower value.

    Args:
        alike, apart: cosines of the pairs of each kind.
    """
    values = np.unique(np.concatenate([alike, apart]))
    edges = (values[1:] + values[:-1]) / 2
    right = [(alike >= edge).mean() + (apart < edge).mean() for edge in edges]
    return float(edges[np.argmax(right)])


def distinct_threshold(sets: Sets) -> dict[str, Any]:
    """The cosine of MiniLM's rows at which two stories of one prompt count as one, for `variety.distinct_k`.

    It tells paraphrases of one story from stories of different authors, and is chosen on every other prompt that has
    paraphrases.

    Returns:
        A dict: cosine, encoder, chosen_on and tested_on (prompts), and on the latter the shares of pairs that it gets
        right: paraphrases_joined, authors_kept_apart.
    """
    written = load_contrasts().query("kind == 'paraphrase'")
    prompts = sorted(written["prompt_id"].unique())
    encoder, upper = (
        load_encoder("minilm"),
        lambda rows: (rows @ rows.T)[np.triu_indices(len(rows), 1)],
    )

    def cosines(part: list[str]) -> tuple[np.ndarray, np.ndarray]:
        alike = [upper(encoder.encode(sets["paraphrase"][p][0])) for p in part]
        authors = [
            list(dict.fromkeys(text for four in sets["authors"][p] for text in four)) for p in part
        ]
        return np.concatenate(alike), np.concatenate(
            [upper(encoder.encode(texts)) for texts in authors]
        )

    value = round(choose_threshold(*cosines(prompts[::2])), 3)
    alike, apart = cosines(prompts[1::2])
    return {
        "cosine": value,
        "encoder": "minilm",
        "chosen_on": prompts[::2],
        "tested_on": prompts[1::2],
        "paraphrases_joined": round(float((alike >= value).mean()), 3),
        "authors_kept_apart": round(float((apart < value).mean()), 3),
    }
