"""What is measured on stories: failure, relevance, diversity by prompt, and a reward that must earn its use.

Diversity pays for failure (random words are far from everything), so no diversity figure of this course stands
without the share of usable stories beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..corpus.stories import decisions, load_prompts, load_stories
from ..corpus.text import first_words, prompt_overlap, repeat_share, words
from ..deviation import diversity
from ..embeddings.encoders import load_encoder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_stories", "prompt_ranks", "prompt_table", "reward_pairs"]


def prompt_ranks(stories: np.ndarray, prompts: np.ndarray, own: Sequence[int]) -> np.ndarray:
    """Rank of each story's own prompt among all prompts by cosine: 1 is the nearest.

    Args:
        stories: (N, d) unit rows. prompts: (P, d) unit rows. own: (N,) row of each story's prompt.
    """
    closeness = stories @ prompts.T
    return 1 + (closeness > closeness[np.arange(len(own)), own][:, None]).sum(axis=1)


def all_prompts() -> pd.DataFrame:
    """The 70 prompts of the course: 30 with stories, 40 without."""
    import pandas as pd

    bundled = load_stories().drop_duplicates("prompt_id")[["prompt_id", "prompt", "split"]]
    return pd.concat([bundled, load_prompts()], ignore_index=True)


def check_stories(
    stories: pd.DataFrame,
    encoder: str = "minilm",
    logprob_range: tuple[float, float] | None = None,
    pool: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Failures of each story, by the thresholds of data/decisions.json.

    Args:
        stories: a frame with prompt and text, and where known `finished` (False: cut by the length limit) and
            `logp` (mean log-prob a token under the SFT model, nats).
        encoder: semantic encoder for the retrieval test.
        logprob_range: lowest and highest `logp` that is still plausible; None leaves that check out.
        pool: prompts among which a story must find its own; None: the course's 70, and it must be among the 20
            nearest. In a pool of P prompts the bound is 1 + 19 (P - 1) / 69: as strict, since a random text passes as
            often.

    Returns:
        A frame with the same index: short, cut, repeating, off_topic, implausible, usable (bool), rank (of the own
        prompt in the pool), n_words, overlap (share of words taken from the prompt).
    """
    import pandas as pd

    rules = decisions()
    course = all_prompts()["prompt"]
    prompts = list(dict.fromkeys([*(course if pool is None else pool), *stories["prompt"]]))
    scale = 1.0 if pool is None else (len(prompts) - 1) / (len(course) - 1)
    texts, place = stories["text"].tolist(), {p: i for i, p in enumerate(prompts)}
    model = load_encoder(encoder)
    out = pd.DataFrame(index=stories.index)
    out["n_words"] = [len(words(text)) for text in texts]
    out["overlap"] = [prompt_overlap(t, p) for t, p in zip(texts, stories["prompt"], strict=True)]
    out["rank"] = prompt_ranks(
        model.encode(texts), model.encode(prompts), [place[p] for p in stories["prompt"]]
    )
    out["short"] = out["n_words"] < rules["min_words"]
    out["cut"] = ~stories["finished"].astype(bool) if "finished" in stories else False
    out["repeating"] = [repeat_share(text) > rules["repeat_share"] for text in texts]
    out["off_topic"] = out["rank"] - 1 > scale * (rules["on_topic_rank"] - 1)
    out["implausible"] = False
    if logprob_range is not None:
        out["implausible"] = ~stories["logp"].between(*logprob_range)
    out["usable"] = ~out[["short", "cut", "repeating", "off_topic", "implausible"]].any(axis=1)
    return out


def prompt_table(
    stories: pd.DataFrame,
    checks: pd.DataFrame,
    encoders: Mapping[str, str],
    cut_to: int | None = None,
) -> pd.DataFrame:
    """One row a prompt: diversity by each encoder, over all stories and over usable ones, and what stands beside it.

    Args:
        stories: a frame with prompt_id and text.
        checks: of `check_stories` for the same rows.
        encoders: measure name -> encoder name; column `name` is the diversity of all stories of the prompt, column
            `name (usable)` that of its usable ones, NaN where fewer than two are.
        cut_to: compare the first so many words only.

    Returns:
        A frame indexed by prompt_id, sorted: the diversities (mean pairwise cosine distance), usable (share), words
        (mean), top1 (share whose own prompt is the nearest of all), overlap (mean share).
    """
    groups = stories["prompt_id"].to_numpy()
    texts = [first_words(t, cut_to) if cut_to else t for t in stories["text"]]
    means = checks.assign(prompt_id=groups, top1=checks["rank"] == 1).groupby("prompt_id")
    table = (
        means[["usable", "n_words", "top1", "overlap"]].mean().rename(columns={"n_words": "words"})
    )
    good = checks["usable"].to_numpy()
    enough = np.isin(
        groups,
        [p for p, n in zip(*np.unique(groups[good], return_counts=True), strict=True) if n > 1],
    )
    for name, encoder in encoders.items():
        rows = load_encoder(encoder).encode(texts)
        table[name] = diversity(rows, groups)
        keep = good & enough
        table[f"{name} (usable)"] = np.nan
        if keep.any():
            table.loc[np.unique(groups[keep]), f"{name} (usable)"] = diversity(
                rows[keep], groups[keep]
            )
    return table


def reward_splits(
    stories: pd.DataFrame, prompt_parts: int = 6, writer_parts: int = 4, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Held-out prompts crossed with held-out writers, for rewards that are to be compared on the same splits.

    A reward of a split is fitted on the stories that have neither a held-out prompt nor a held-out writer. On the
    held-out prompts, the held-out writers' stories are unseen twice; the other writers' have a writer it knows.

    Args:
        stories: a frame with prompt_id and writer.
        prompt_parts, writer_parts: into how many parts prompts and writers are dealt at random; 0 writer parts hold
            no writer out.
        seed: of the dealing.

    Returns:
        prompt_parts * max(1, writer_parts) pairs of (N,) masks: story of a held-out prompt, of a held-out writer.
    """
    rng = np.random.default_rng(seed)
    prompts, writers = stories["prompt_id"].to_numpy(), stories["writer"].to_numpy()
    dealt = (
        np.array_split(rng.permutation(np.unique(writers)), writer_parts) if writer_parts else [[]]
    )
    return [
        (np.isin(prompts, prompt_part), np.isin(writers, writer_part))
        for prompt_part in np.array_split(rng.permutation(np.unique(prompts)), prompt_parts)
        for writer_part in dealt
    ]


def ordered_pairs(stories: pd.DataFrame, guess: np.ndarray) -> pd.DataFrame:
    """Every pair of stories of one prompt whose scores differ, and whether a reward orders it rightly.

    Args:
        stories: a frame with prompt_id and score. guess: (N,) the reward's scores.

    Returns:
        One row a pair: prompt_id, margin (the reward of the better story minus that of the other), right (bool).
    """
    import pandas as pd

    score, guess = stories["score"].to_numpy(), np.asarray(guess)
    prompts, margins = [], []
    for prompt, place in stories.groupby("prompt_id", sort=False).indices.items():
        a, b = (place[side] for side in np.triu_indices(len(place), 1))
        a, b = a[score[a] != score[b]], b[score[a] != score[b]]
        prompts += [prompt] * len(a)
        margins.append((guess[a] - guess[b]) * np.sign(score[a] - score[b]))
    margin = np.concatenate([*margins, np.zeros(0)])
    # a reward that cannot tell the two apart did not order them
    return pd.DataFrame({"prompt_id": prompts, "margin": margin, "right": margin > 0})


def reward_pairs(
    stories: pd.DataFrame,
    features: np.ndarray,
    unseen_writers: bool,
    alpha: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Does a ridge reward order pairs of stories rightly where it saw neither prompt nor (if asked) writer?

    Prompts are split in 6 parts; with `unseen_writers` writers are split in 4 as well. The reward is fitted on the
    stories outside the held-out part and asked about pairs of one held-out prompt (and two held-out writers).

    Args:
        stories: judged stories with prompt_id, writer and score (the judges' mean, 1 to 10).
        features: (N, d) rows for the same stories.
        unseen_writers: whether writers are held out together with the prompts.
        alpha: ridge penalty. seed: of the splits.

    Returns:
        One row a pair with different scores, as in `ordered_pairs`.
    """
    import pandas as pd
    from sklearn.linear_model import Ridge

    score, frames = stories["score"].to_numpy(), []
    for in_prompt, in_writer in reward_splits(
        stories, writer_parts=4 if unseen_writers else 0, seed=seed
    ):
        train, held = ~in_prompt & ~in_writer, in_prompt & (in_writer | (not unseen_writers))
        if train.any() and held.any():  # few prompts or writers leave parts empty
            model = Ridge(alpha=alpha).fit(features[train], score[train])
            frames.append(ordered_pairs(stories[held], model.predict(features[held])))
    return (
        pd.concat(frames, ignore_index=True) if frames else ordered_pairs(stories[:0], np.zeros(0))
    )
