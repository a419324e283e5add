"""A small world with known truth: stories from a grammar, so that diversity and quality are counted and not guessed.

A prompt names a subject, an object and a place. A story tells one of 12 plots in one of 8 voices with one of 6 endings,
and fills two places with a plain or a vivid adjective. How common a plot, voice or ending is depends on the prompt, and
so does how good it is; both are drawn anew with each world:

    common(prompt, mode)  = (A[subject] + A[object] + A[place]) / sqrt 3        tables of standard normal numbers
    p(mode | prompt)      = softmax(SHARPNESS * common)
    value(prompt, mode)   = -rho * common + sqrt(1 - rho^2) * (G[mode] + other(prompt, mode)) / sqrt 2
    quality(story)        = (value of plot + voice + ending) / sqrt 3 + (vivid adjectives - mean) / sd
    score(story)          = quality + NOISE * standard normal                   what pairs are made from

`other` is made like `common` from tables of its own, G is the same for all prompts. So rho is the correlation of a
mode's value with its rarity: 0 where they have nothing to do with each other, above it where the rare is better, below
it where the rare is worse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DIMENSIONS", "World", "parse", "prompt_text", "story_text"]

SUBJECTS = (
    "baker",
    "child",
    "clown",
    "doctor",
    "fox",
    "judge",
    "miller",
    "monk",
    "painter",
    "queen",
    "sailor",
    "shepherd",
    "smith",
    "soldier",
    "thief",
    "widow",
)
OBJECTS = ("clock", "coat", "drum", "key", "knife", "lantern", "letter", "map", "mirror", "violin")
PLACES = (
    "circus",
    "desert",
    "forest",
    "garden",
    "harbour",
    "library",
    "lighthouse",
    "market",
    "mountain",
    "palace",
    "prison",
    "station",
)
PLOTS = {  # two steps each; {o} is the prompt's object, {a} an adjective
    "heist": ("stole the {o} from a {a} vault", "ran from the guards over {a} roofs"),
    "storm": ("carried the {o} through a {a} storm", "lost the boat to {a} waves"),
    "wedding": ("gave the {o} to a {a} bride", "danced at the wedding in {a} shoes"),
    "ghost": ("heard the {o} whisper at {a} midnight", "followed a {a} ghost into the cellar"),
    "war": ("hid the {o} from a {a} army", "fought the battle beside {a} cannons"),
    "trial": ("swore on the {o} before a {a} jury", "read the verdict in a {a} court"),
    "famine": ("sold the {o} for a {a} loaf of bread", "shared the soup with {a} beggars"),
    "machine": ("built a {a} machine out of the {o}", "fed the engine with {a} steam"),
    "fever": ("laid the {o} beside a {a} patient", "brewed the medicine from {a} herbs"),
    "race": ("won the {o} in a {a} race", "outran the champion on {a} legs"),
    "grave": ("buried the {o} under a {a} oak", "dug up the bones of {a} kings"),
    "wolves": ("trained a {a} wolf to guard the {o}", "hunted deer with the {a} pack"),
}
ENDINGS = {
    "forgiven": "came home and forgave everyone",
    "frozen": "died alone in the snow",
    "crowned": "took the crown and ruled wisely",
    "dreamt": "woke up from a long dream",
    "sailed": "sailed away and never wrote",
    "burned": "set the house on fire",
}
VOICES = {  # {s} the subject, {p} the place, {1} and {2} the plot's steps, {e} the ending
    "plain": "The {s} lived in the {p}. It {1}. Then it {2}. In the end it {e}.",
    "letter": "My dear, I must tell you of the {s} in our {p}: he {1}, and, you know, he {2}; at last he {e}. Yours.",
    "log": "Day 1, {p}: {s} {1}. Day 2: {s} {2}. Day 3: {s} {e}. End of log.",
    "riddle": "Who was in the {p}? The {s}! What did she do? She {1}! And then? She {2}! And last? She {e}!",
    "rush": "so there was this {s} in the {p} and they {1} and then they {2} and then -- and then -- they {e} ...",
    "scripture": "And it was in the {p} that the {s} {1}, and behold, the same {2}; and it was so that he {e}.",
    "confession": "I am the {s} of the {p}. Yes, I {1}. I am not sorry that I {2}. This is all I know: I {e}.",
    "gossip": "They say that some {s} from the {p} once {1}. Well! She also {2}, or so they say, and {e}.",
}
PLAIN = ("old", "big", "small", "nice", "bad", "long")
VIVID = (
    "ashen",
    "brittle",
    "crooked",
    "feverish",
    "gilded",
    "hollow",
    "howling",
    "moonlit",
    "rusted",
    "scarlet",
    "thorny",
    "velvet",
)
DIMENSIONS = {"plot": tuple(PLOTS), "voice": tuple(VOICES), "ending": tuple(ENDINGS)}
SHARPNESS, NOISE, P_VIVID = 1.3, 0.5, 0.4


def prompt_text(subject: str, thing: str, place: str) -> str:
    """The prompt that names the three."""
    return f"A {subject}, a {thing}, a {place}."


def story_text(
    subject: str,
    thing: str,
    place: str,
    plot: str,
    voice: str,
    ending: str,
    adjectives: Sequence[str],
) -> str:
    """The story in which everything is as named; two adjectives."""
    steps = [step.format(o=thing, a=a) for step, a in zip(PLOTS[plot], adjectives, strict=True)]
    words = {"s": subject, "p": place, "1": steps[0], "2": steps[1], "e": ENDINGS[ending]}
    return re.sub(r"\{(\w)\}", lambda m: words[m[1]], VOICES[voice])


@lru_cache(maxsize=1)
def _patterns() -> dict[str, re.Pattern[str]]:
    """Each voice as a pattern with the groups s, p, step1, step2, ending; a name that comes again must be the same."""
    groups = {
        "s": r"(?P<s>[a-z]+)",
        "p": r"(?P<p>[a-z]+)",
        "1": "(?P<step1>.+?)",
        "2": "(?P<step2>.+?)",
    }
    groups["e"] = "(?P<ending>.+?)"
    out = {}
    for voice, template in VOICES.items():
        seen: set[str] = set()
        pieces = re.split(r"\{(\w)\}", template)
        for i in range(1, len(pieces), 2):
            name = pieces[i]
            pieces[i] = f"(?P={name})" if name in seen else groups[name]
            seen.add(name)
        out[voice] = re.compile("".join(p if i % 2 else re.escape(p) for i, p in enumerate(pieces)))
    return out


_STEPS = [{steps[i]: plot for plot, steps in PLOTS.items()} for i in (0, 1)]
_ENDINGS = {text: ending for ending, text in ENDINGS.items()}


def _step(text: str, thing: str, which: int) -> tuple[str | None, bool]:
    """(plot, whether its adjective is vivid) of one step; None if it is no plot's."""
    vivid, words = False, []
    for word in text.split(" "):
        vivid |= word in VIVID
        words.append("{a}" if word in PLAIN + VIVID else "{o}" if word == thing else word)
    return _STEPS[which].get(" ".join(words)), vivid


def parse(text: str, prompt: str) -> dict[str, Any] | None:
    """What a story of this prompt tells: plot, voice, ending (names) and vivid (0 to 2); None if the grammar cannot
    have made it: broken sentences, steps of two plots, another subject, object or place."""
    subject, thing, place = _names(prompt)
    for voice, pattern in _patterns().items():
        match = pattern.fullmatch(text)
        if match and (match["s"], match["p"]) == (subject, place) and match["ending"] in _ENDINGS:
            (plot, vivid), (second, more) = (_step(match[f"step{i + 1}"], thing, i) for i in (0, 1))
            if plot and plot == second:
                return {
                    "plot": plot,
                    "voice": voice,
                    "ending": _ENDINGS[match["ending"]],
                    "vivid": vivid + more,
                }
    return None


@dataclass(frozen=True)
class World:
    """One draw of the tables: everything that is true of it.

    Args:
        seed: of the tables; stories of the same seed are the same for every rho, only their quality differs.
        rho: correlation of a mode's value with its rarity, -1 to 1.
    """

    seed: int
    rho: float = 0.0

    def _tables(self, what: int) -> dict[str, list[np.ndarray]]:
        rng = np.random.default_rng([self.seed, what])
        return {
            name: [
                rng.standard_normal((n, len(modes)))
                for n in (len(SUBJECTS), len(OBJECTS), len(PLACES))
            ]
            for name, modes in DIMENSIONS.items()
        }

    def _of(self, what: int, dimension: str, places: np.ndarray) -> np.ndarray:
        return sum(
            table[places[:, i]] for i, table in enumerate(self._tables(what)[dimension])
        ) / np.sqrt(3)

    def probabilities(self, prompts: Sequence[str], dimension: str) -> np.ndarray:
        """p(mode | prompt) in the grammar, (prompts, modes)."""
        weight = np.exp(SHARPNESS * self._of(0, dimension, _places(prompts)))
        return weight / weight.sum(axis=1, keepdims=True)

    def values(self, prompts: Sequence[str], dimension: str) -> np.ndarray:
        """Value of each mode for each prompt, (prompts, modes), about standard normal."""
        places = _places(prompts)
        general = np.random.default_rng([self.seed, 2]).standard_normal((3, 12))[
            list(DIMENSIONS).index(dimension)
        ]
        own = (general[: len(DIMENSIONS[dimension])] + self._of(1, dimension, places)) / np.sqrt(2)
        return -self.rho * self._of(0, dimension, places) + np.sqrt(1 - self.rho**2) * own

    def stories(
        self, prompts: Sequence[str], each: int | Sequence[int], draw: int = 0
    ) -> pd.DataFrame:
        """Stories of the grammar with prompt_id, prompt, text, plot, voice, ending, vivid, quality and score."""
        import pandas as pd

        asked = np.repeat(np.arange(len(prompts)), each)
        rng = np.random.default_rng([self.seed, 3, draw])
        frame = pd.DataFrame(
            {"prompt_id": [prompts[i] for i in asked], "prompt": [prompts[i] for i in asked]}
        )
        for name, modes in DIMENSIONS.items():
            cumulative = self.probabilities(prompts, name).cumsum(axis=1)[asked]
            frame[name] = np.array(modes)[
                (rng.random((len(asked), 1)) > cumulative[:, :-1]).sum(axis=1)
            ]
        vivid = rng.random((len(asked), 2)) < P_VIVID
        choice = [
            np.array(pool)[rng.integers(0, len(pool), vivid.shape)] for pool in (VIVID, PLAIN)
        ]
        adjectives, frame["vivid"] = np.where(vivid, *choice), vivid.sum(axis=1)
        rows = zip(
            frame["prompt"], frame["plot"], frame["voice"], frame["ending"], adjectives, strict=True
        )
        frame["text"] = [
            story_text(*_names(prompt), *modes, words) for prompt, *modes, words in rows
        ]
        frame["quality"] = self.quality(frame)
        frame["score"] = frame["quality"] + NOISE * rng.standard_normal(len(frame))
        return frame

    def quality(self, parsed: pd.DataFrame) -> np.ndarray:
        """True quality of stories with the columns prompt, plot, voice, ending and vivid."""
        prompts, rows = np.unique(parsed["prompt"], return_inverse=True)
        total = np.zeros(len(parsed))
        for name, modes in DIMENSIONS.items():
            column = parsed[name].map({mode: i for i, mode in enumerate(modes)}).to_numpy()
            total += self.values(list(prompts), name)[rows, column] / np.sqrt(3)
        mean, sd = 2 * P_VIVID, np.sqrt(2 * P_VIVID * (1 - P_VIVID))
        return total + (parsed["vivid"].to_numpy() - mean) / sd


def _names(prompt: str) -> tuple[str, str, str]:
    return re.fullmatch(r"A (\w+), a (\w+), a (\w+)\.", prompt).groups()


def _places(prompts: Sequence[str]) -> np.ndarray:
    lists = (SUBJECTS, OBJECTS, PLACES)
    rows = [[names.index(n) for names, n in zip(lists, _names(p), strict=True)] for p in prompts]
    return np.array(rows, dtype=int).reshape(-1, 3)


def all_prompts(seed: int) -> list[str]:
    """The 1,920 prompts of a world in its own random order: the first are for testing."""
    prompts = [prompt_text(*names) for names in product(SUBJECTS, OBJECTS, PLACES)]
    return [prompts[i] for i in np.random.default_rng([seed, 4]).permutation(len(prompts))]
