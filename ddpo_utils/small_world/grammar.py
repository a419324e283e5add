"""A small world with known truth: a grammar's stories, so that diversity and quality are counted.

A prompt names a subject, an object and a place. A story tells one of 12 plots in one of 8 voices
with one of 6 endings, and fills two gaps with a plain or a vivid adjective. The prompt decides how
common and how good each plot, voice and ending (each "mode") is, by tables that a world draws:

   common(prompt, mode) = (A[subject] + A[object] + A[place]) / sqrt 3    A: standard normal numbers
   p(mode | prompt)     = softmax(SHARPNESS * common)
   value(prompt, mode)  = -rho * common + sqrt(1 - rho^2) * (G[mode] + other(prompt, mode)) / sqrt 2
   quality(story)       = (value of plot + voice + ending) / sqrt 3 + (vivid adjectives - mean) / sd
   score(story)         = quality + NOISE * standard normal               what pairs are made from

`other` is made like `common` from its own tables; G is the same for all prompts. So rho is the
correlation of a mode's value with its rarity: above 0 the rare is better, below 0 it is worse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ..settings import CourseError


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SUBJECTS = _words(
    "baker child clown doctor fox judge miller monk "
    "painter queen sailor shepherd smith soldier thief widow"
)
OBJECTS = _words("clock coat drum key knife lantern letter map mirror violin")
PLACES = _words(
    "circus desert forest garden harbour library lighthouse market mountain palace prison station"
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
VOICES = {  # {s} the subject, {p} the place, {a} and {b} the plot's steps, {e} the ending
    "plain": "The {s} lived in the {p}. It {a}. Then it {b}. In the end it {e}.",
    "letter": "My dear, I must tell you of the {s} in our {p}: he {a}, and, you know, he {b}; "
    "at last he {e}. Yours.",
    "log": "Day 1, {p}: {s} {a}. Day 2: {s} {b}. Day 3: {s} {e}. End of log.",
    "riddle": "Who was in the {p}? The {s}! What did she do? She {a}! And then? She {b}! "
    "And last? She {e}!",
    "rush": "so there was this {s} in the {p} and they {a} and then they {b} and then -- "
    "and then -- they {e} ...",
    "scripture": "And it was in the {p} that the {s} {a}, and behold, the same {b}; "
    "and it was so that he {e}.",
    "confession": "I am the {s} of the {p}. Yes, I {a}. I am not sorry that I {b}. "
    "This is all I know: I {e}.",
    "gossip": "They say that some {s} from the {p} once {a}. Well! She also {b}, "
    "or so they say, and {e}.",
}
PLAIN = _words("old big small nice bad long")
VIVID = _words(
    "ashen brittle crooked feverish gilded hollow howling moonlit rusted scarlet thorny velvet"
)
DIMENSIONS = {"plot": tuple(PLOTS), "voice": tuple(VOICES), "ending": tuple(ENDINGS)}
SHARPNESS = 1.3
NOISE = 0.5
P_VIVID = 0.4

# Each thing that is drawn has its own stream of random numbers: default_rng([seed, stream]).
COMMON, OTHER, GENERAL, STORIES, ORDER = range(5)


def prompt_text(subject: str, thing: str, place: str) -> str:
    """The prompt that names the three."""
    return f"A {subject}, a {thing}, a {place}."


def _names(prompt: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"A (\w+), a (\w+), a (\w+)\.", str(prompt))
    names = match.groups() if match else ("", "", "")
    if names[0] not in SUBJECTS or names[1] not in OBJECTS or names[2] not in PLACES:
        raise CourseError(f"{prompt!r} is no prompt of the small world: take some of all_prompts.")
    return names


def _places(prompts: Sequence[str]) -> np.ndarray:
    """(prompts, 3) indices of each prompt's subject, object and place."""
    named = map(_names, prompts)
    return np.array([(SUBJECTS.index(s), OBJECTS.index(o), PLACES.index(p)) for s, o, p in named])


def all_prompts(seed: int) -> list[str]:
    """The 1,920 prompts in the world's random order; the first are for testing."""
    prompts = [prompt_text(*names) for names in product(SUBJECTS, OBJECTS, PLACES)]
    order = np.random.default_rng([seed, ORDER]).permutation(len(prompts))
    return [prompts[i] for i in order]


def story_text(prompt: str, plot: str, voice: str, ending: str, adjectives: Sequence[str]) -> str:
    """The story of a prompt with these modes and two adjectives."""
    subject, thing, place = _names(prompt)
    first, second = PLOTS[plot]
    return VOICES[voice].format(
        s=subject,
        p=place,
        a=first.format(o=thing, a=adjectives[0]),
        b=second.format(o=thing, a=adjectives[1]),
        e=ENDINGS[ending],
    )


def _pattern(template: str) -> re.Pattern[str]:
    """A voice as a pattern with a group for each part; a part that comes again must be the same."""
    pattern = re.escape(template)
    parts = {"s": "[a-z]+", "p": "[a-z]+", "a": ".+?", "b": ".+?", "e": ".+?"}
    for name, part in parts.items():
        gap = re.escape(f"{{{name}}}")
        pattern = pattern.replace(gap, f"(?P<{name}>{part})", 1)
        pattern = pattern.replace(gap, f"(?P={name})")
    return re.compile(pattern)


_PATTERNS = {voice: _pattern(template) for voice, template in VOICES.items()}
_ENDING_OF_TEXT = {text: ending for ending, text in ENDINGS.items()}


@cache
def _steps(thing: str, number: int) -> dict[str, tuple[str, bool]]:
    """All texts of the plots' first (0) or second (1) step: text -> plot, adjective is vivid."""
    known = {}
    for plot, steps in PLOTS.items():
        for adjective in PLAIN + VIVID:
            text = steps[number].format(o=thing, a=adjective)
            known[text] = plot, adjective in VIVID
    return known


def parse(text: str, prompt: str) -> dict[str, Any] | None:
    """Plot, voice, ending (names) and vivid (0 to 2) of a story of this prompt.

    None if the grammar cannot have made it: broken sentences, steps of two plots, or another
    subject, object or place.
    """
    subject, thing, place = _names(prompt)
    if not isinstance(text, str):  # such as null
        return None
    for voice, pattern in _PATTERNS.items():
        match = pattern.fullmatch(text)
        if not match or match["s"] != subject or match["p"] != place:
            continue
        ending = _ENDING_OF_TEXT.get(match["e"])
        plot, vivid = _steps(thing, 0).get(match["a"], (None, False))
        second_plot, second_vivid = _steps(thing, 1).get(match["b"], (None, False))
        if ending and plot and plot == second_plot:
            return {"plot": plot, "voice": voice, "ending": ending, "vivid": vivid + second_vivid}
    return None


@dataclass(frozen=True)
class World:
    """One draw of the tables.

    Args:
        seed: of tables and stories; the stories are the same at every rho, but not their quality.
        rho: correlation of a mode's value with its rarity, -1 to 1.

    CourseError for another seed or rho.
    """

    seed: int
    rho: float = 0.0

    def __post_init__(self) -> None:
        if not (-1 <= self.rho <= 1 and self.seed >= 0):
            raise CourseError(
                f"A world has a seed from 0 and a rho from -1 to 1, not {self.seed} and {self.rho}."
            )

    def _tables(self, stream: int, dimension: str, places: np.ndarray) -> np.ndarray:
        """(prompts, modes) sums of the tables' rows for subject, object and place, over sqrt 3."""
        rng = np.random.default_rng([self.seed, stream])
        tables = {}
        for name, modes in DIMENSIONS.items():
            lists = (SUBJECTS, OBJECTS, PLACES)
            tables[name] = [rng.standard_normal((len(names), len(modes))) for names in lists]
        subjects, things, rooms = tables[dimension]
        subject, thing, place = places.T
        total = subjects[subject] + things[thing] + rooms[place]
        return total / np.sqrt(3)

    def probabilities(self, prompts: Sequence[str], dimension: str) -> np.ndarray:
        """p(mode | prompt) in the grammar, (prompts, modes)."""
        common = self._tables(COMMON, dimension, _places(prompts))
        weight = np.exp(SHARPNESS * common)
        return weight / weight.sum(axis=1, keepdims=True)

    def values(self, prompts: Sequence[str], dimension: str) -> np.ndarray:
        """Value of each mode for each prompt, (prompts, modes), about standard normal."""
        places = _places(prompts)
        modes = len(DIMENSIONS[dimension])
        most_modes = max(len(names) for names in DIMENSIONS.values())
        rng = np.random.default_rng([self.seed, GENERAL])
        general = rng.standard_normal((len(DIMENSIONS), most_modes))
        row = list(DIMENSIONS).index(dimension)
        other = self._tables(OTHER, dimension, places)
        free = (general[row, :modes] + other) / np.sqrt(2)
        common = self._tables(COMMON, dimension, places)
        return -self.rho * common + np.sqrt(1 - self.rho**2) * free

    def stories(self, prompts: Sequence[str], each: int, draw: int = 0) -> pd.DataFrame:
        """`each` stories of every prompt: prompt_id, prompt, modes, vivid, text, quality, score."""
        import pandas as pd

        rows = np.repeat(np.arange(len(prompts)), each)
        rng = np.random.default_rng([self.seed, STORIES, draw])
        repeated = [prompts[i] for i in rows]
        frame = pd.DataFrame({"prompt_id": repeated, "prompt": repeated})
        for name, modes in DIMENSIONS.items():
            cumulative = self.probabilities(prompts, name).cumsum(axis=1)[rows]
            chance = rng.random((len(rows), 1))
            drawn = (chance > cumulative[:, :-1]).sum(axis=1)
            frame[name] = np.array(modes)[drawn]
        vivid = rng.random((len(rows), 2)) < P_VIVID
        vivid_words = rng.choice(VIVID, vivid.shape)
        plain_words = rng.choice(PLAIN, vivid.shape)
        adjectives = np.where(vivid, vivid_words, plain_words)
        frame["vivid"] = vivid.sum(axis=1)
        stories = zip(repeated, *(frame[name] for name in DIMENSIONS), adjectives, strict=True)
        frame["text"] = [story_text(*story) for story in stories]
        frame["quality"] = self.quality(frame)
        noise = NOISE * rng.standard_normal(len(frame))
        frame["score"] = frame["quality"] + noise
        return frame

    def quality(self, parsed: pd.DataFrame) -> np.ndarray:
        """True quality of stories with the columns prompt, plot, voice, ending and vivid."""
        prompts, rows = np.unique(parsed["prompt"], return_inverse=True)
        total = np.zeros(len(parsed))
        for name, modes in DIMENSIONS.items():
            columns = parsed[name].map(modes.index).to_numpy()
            values = self.values(list(prompts), name)
            total += values[rows, columns] / np.sqrt(3)
        mean = 2 * P_VIVID
        sd = np.sqrt(mean * (1 - P_VIVID))
        return total + (parsed["vivid"].to_numpy() - mean) / sd
