"""Sets of four stories whose order in diversity is known: the questions that measures are asked.

Every set is of one training prompt (choosing a measure is a choice, so no test prompt takes part):

    authors       four of twelve voices, drawn at random                    the reference
    assistant     four of the six independent stories, all 15 choices       known to be less diverse
    length_25     the same authors' sets, every story cut to its first 25 words
    length_50     the same, cut to 50 words
    gibberish_1   the same authors' sets, one story replaced by random words of the corpus
    gibberish_4   random words alone
    off_topic_1   the same authors' sets, one story replaced by its author's story of another prompt
    off_topic_4   one voice's stories of four prompts
    paraphrase    four paraphrases of one author's story: one plot, one manner, other words
    same_plot     four retellings of one plot in other voices, with other names and places

The last two come from data/contrasts.jsonl, the others from the bundled stories. All sets have one
size, because most measures depend on it.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo_utils.corpus.stories import load_stories
from ddpo_utils.corpus.text import first_words, words
from ddpo_utils.embeddings.encoders import load_encoder
from ddpo_utils.settings import data_dir
from ddpo_utils.storage.files import read_jsonl

if TYPE_CHECKING:
    import pandas as pd

SIZE = 4  # stories a set, as many as the paper samples of a prompt
CONTRASTS = (
    "length_25",
    "length_50",
    "gibberish_1",
    "gibberish_4",
    "off_topic_1",
    "off_topic_4",
    "paraphrase",
    "same_plot",
)

Sets = dict[str, dict[str, list[list[str]]]]  # contrast -> prompt -> sets of SIZE texts


def load_contrasts() -> pd.DataFrame:
    """data/contrasts.jsonl: prompt_id, kind (paraphrase, same_plot), of (a story's id), n, text."""
    import pandas as pd

    return pd.DataFrame(read_jsonl(data_dir() / "contrasts.jsonl"))


def build_contrasts(draws: int, seed: int) -> Sets:
    """All sets, by contrast and prompt; the same at every call with the same arguments.

    Args:
        draws: sets a prompt, for every contrast that is drawn.
    """
    rng = np.random.default_rng(seed)
    stories = load_stories()
    stories = stories[stories["split"] == "train"]
    from_authors = stories[stories["source"] == "authors"]
    authors = from_authors.pivot(index="prompt_id", columns="writer", values="text")
    assistant = stories[stories["source"] == "assistant"].groupby("prompt_id")["text"]
    corpus = np.array([word for text in stories["text"] for word in words(text)])
    names = ("authors", "assistant", *CONTRASTS)
    sets: Sets = {name: {} for name in names}
    for prompt in authors.index:
        four_of_six = combinations(assistant.get_group(prompt), SIZE)
        sets["assistant"][prompt] = [list(four) for four in four_of_six]
        nonsense = {}
        for writer, text in authors.loc[prompt].items():
            nonsense[writer] = " ".join(rng.choice(corpus, len(words(text))))
        for _ in range(draws):
            for name, texts in _draw(rng, authors, prompt, nonsense).items():
                sets[name].setdefault(prompt, []).append(texts)
    for (kind, prompt), group in load_contrasts().sort_values("n").groupby(["kind", "prompt_id"]):
        sets[kind][prompt] = [group["text"].tolist()]
    return sets


def _draw(
    rng: np.random.Generator, authors: pd.DataFrame, prompt: str, nonsense: dict[str, str]
) -> dict[str, list[str]]:
    """One set of each drawn contrast: the same four voices, changed in seven ways."""
    others = authors.index.drop(prompt)
    voices = rng.choice(authors.columns, SIZE, replace=False)
    four = authors.loc[prompt, voices].tolist()
    off_topic = authors.loc[rng.choice(others), voices[0]]
    four_prompts = [prompt, *rng.choice(others, SIZE - 1, replace=False)]
    one_voice = rng.choice(authors.columns)
    return {
        "authors": four,
        "length_25": [first_words(text, 25) for text in four],
        "length_50": [first_words(text, 50) for text in four],
        "gibberish_1": [nonsense[voices[0]], *four[1:]],
        "gibberish_4": [nonsense[voice] for voice in voices],
        "off_topic_1": [off_topic, *four[1:]],
        "off_topic_4": authors.loc[four_prompts, one_voice].tolist(),
    }


def choose_threshold(alike: np.ndarray, apart: np.ndarray) -> float:
    """The cosine with the largest sum of correct shares: alike pairs above it, apart pairs below.

    Args:
        alike, apart: cosines of the pairs of each kind.
    """
    values = np.unique(np.concatenate([alike, apart]))
    edges = (values[1:] + values[:-1]) / 2
    correct = [(alike >= edge).mean() + (apart < edge).mean() for edge in edges]
    return float(edges[np.argmax(correct)])


def distinct_threshold(sets: Sets) -> dict[str, Any]:
    """The cosine of MiniLM's rows at which two stories count as one, for `set_measures.distinct_k`.

    It tells paraphrases of one story from stories of different authors. It is chosen on every other
    prompt that has paraphrases, and tested on the rest.

    Returns:
        cosine, encoder, chosen_on and tested_on (prompts), and the correct shares of the tested
        pairs: paraphrases_joined, authors_kept_apart.
    """
    contrasts = load_contrasts()
    prompts = sorted(contrasts.loc[contrasts["kind"] == "paraphrase", "prompt_id"].unique())
    encoder = load_encoder("minilm")

    def pair_cosines(texts: list[str]) -> np.ndarray:
        rows = encoder.encode(texts)
        return (rows @ rows.T)[np.triu_indices(len(rows), 1)]

    def cosines(part: list[str]) -> tuple[np.ndarray, np.ndarray]:
        alike, apart = [], []
        for prompt in part:
            alike.append(pair_cosines(sets["paraphrase"][prompt][0]))
            texts = dict.fromkeys(text for four in sets["authors"][prompt] for text in four)
            apart.append(pair_cosines(list(texts)))
        return np.concatenate(alike), np.concatenate(apart)

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
