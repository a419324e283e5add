"""What a model is asked under each condition, and how its answer becomes stories.

plain       each story is asked for alone
iterative   each request carries the earlier stories and asks for one far from them (GPT-4o-iter
            in arXiv 2503.17126)
verbalised  one request asks for several stories with their probabilities (verbalized sampling,
            arXiv 2510.01171)

The papers describe what is asked for; the words are this project's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..corpus.text import as_messages
from ..settings import CourseError
from ..storage.files import read_jsonl

if TYPE_CHECKING:
    import pandas as pd

Chat = list[dict[str, str]]
Asked = Chat | dict[str, Any]  # a chat, or {"prompt": token ids or a text} without a template
CONDITIONS = ("plain", "iterative", "verbalised")

SYSTEM = (
    "You write fiction. Answer the user's prompt with one creative piece of writing, and with "
    "nothing beside it."
)
FAR = (
    "Those pieces answer the prompt already. Write another one that lies as far from all of them "
    "as you can, in its plot and in its style alike. Give the new piece alone."
)
TELLER = "You write fiction."
SEVERAL = (
    "Answer the prompt above {k} times, with pieces drawn from the whole range of what you might "
    "write, the unlikely ones included. Put each piece, whole, into this form, and write nothing "
    "outside it:\n"
    "<response><text>the piece</text><probability>a number from 0 to 1: how likely you would be to "
    "write this piece</probability></response>"
)
MOST_SAMPLES = 1_000_000  # in one file
CHARACTERS_A_TOKEN = 4  # about, in English
TOKENS_AROUND_A_MESSAGE = 4  # of a chat template, about
COUNTS = ("prompt_tokens", "completion_tokens", "repeats")  # what one call used
WORDING = (SYSTEM, FAR, TELLER, SEVERAL)  # samples asked for in other words are other samples

_RESPONSE = re.compile(r"<response\b[^>]*>(.*?)(</response\s*>|(?=<response\b)|\Z)", re.S | re.I)
_TEXT = re.compile(r"<text\b[^>]*>(.*?)(</text\s*>|(?=<probability\b)|\Z)", re.S | re.I)
_PROBABILITY = re.compile(
    r"<probability\b[^>]*>\s*((?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)\s*(%?)\s*(?:</probability\s*>|\Z)",
    re.I,
)
_PROBABILITY_PART = re.compile(r"<probability\b.*", re.S | re.I)
# Some servers leave reasoning in, and some without the tag that opens it.
_REASONING = re.compile(
    r"\A(?:.*?</(think|thinking|thought|reasoning)\s*>(?:\s*<\1\b[^>]*>.*?</\1\s*>)*"
    r"|\s*<(?:think|thinking|thought|reasoning)\b[^>]*>.*\Z)",
    re.S | re.I,
)


def check_prompts(
    prompts: pd.DataFrame, samples: int = 1, condition: str = "plain"
) -> dict[Any, str]:
    """The prompts by prompt_id.

    CourseError unless each is a text, prompt_ids are unique, and samples are wanted.
    """
    wanted = len(prompts) * samples
    if condition not in CONDITIONS or samples < 1 or wanted > MOST_SAMPLES:
        raise CourseError(
            f"Sampling takes one of {', '.join(CONDITIONS)}, and from 1 sample a prompt to "
            f"{MOST_SAMPLES:,} in a file; got {condition!r}, {samples} and {len(prompts)} prompts."
        )
    if not len(prompts) or not {"prompt_id", "prompt"} <= set(prompts):
        raise CourseError("Sampling needs prompts, with prompt_id and prompt.")
    texts: dict[Any, str] = {}
    rows = prompts[["prompt_id", "prompt"]].values.tolist()
    for number, (prompt_id, prompt) in enumerate(rows, 1):
        has_text = isinstance(prompt, str) and prompt.strip()
        if not has_text or not isinstance(prompt_id, (str, int)) or prompt_id in texts:
            raise CourseError(
                f"Prompt {number} has the prompt_id {prompt_id!r} and the prompt {prompt!r:.40}: "
                "it needs a unique prompt_id (text or whole number) and a text."
            )
        texts[prompt_id] = prompt
    return texts


def read_prompts(path: str | Path) -> pd.DataFrame:
    """The prompts of a JSONL file, checked, as a frame with prompt_id and prompt."""
    import pandas as pd

    columns = ["prompt_id", "prompt"]
    prompts = pd.DataFrame(read_jsonl(path), columns=columns, dtype=object)
    try:
        check_prompts(prompts)
    except CourseError as error:
        raise CourseError(f"{path}: {error}") from None
    return prompts


def request(prompt: str, condition: str, k: int = 4, earlier: Sequence[str] = ()) -> str:
    """The user's text of one call.

    A verbalised call asks for `k` stories, an iterative one for a story far from the `earlier`.
    """
    if condition == "verbalised":
        return f"{prompt}\n\n{SEVERAL.format(k=k)}"
    if condition == "iterative" and earlier:
        pieces = [f"Piece {number}:\n{text}" for number, text in enumerate(earlier, 1)]
        return "\n\n".join([prompt, *pieces, FAR])
    return prompt


def chat(text: str, condition: str, system: bool = True) -> Chat:
    """The messages of one call to an endpoint, for the user's text of `request`.

    `system` is False for models that take no system message: its text goes before the user's.
    """
    # SYSTEM asks for one piece alone
    instruction = TELLER if condition == "verbalised" else SYSTEM
    if not system:
        return as_messages("user", f"{instruction}\n\n{text}")
    return as_messages("system", instruction) + as_messages("user", text)


def count_tokens(messages: Asked) -> int:
    """Tokens of what is asked, about; at most, of a text without a template."""
    if isinstance(messages, dict):
        return len(messages["prompt"])
    texts = [math.ceil(len(message["content"]) / CHARACTERS_A_TOKEN) for message in messages]
    return sum(texts) + TOKENS_AROUND_A_MESSAGE * len(messages)


def render(tokenizer: Any, prompts: Iterable[str]) -> list[str]:
    """The prompts in the tokenizer's chat template, up to where the answer's text begins.

    What the template writes before an answer, such as an empty think block, belongs to the prompt;
    spaces there belong to the answer, since they merge with its first token.
    """
    return [before.rstrip(" ") for before, _ in _around_answers(tokenizer, prompts)]


def render_exchanges(
    tokenizer: Any, prompts: Sequence[str], answers: Sequence[str]
) -> list[tuple[str, str]]:
    """(prompt, answer with its end) of each exchange, as the chat template writes both.

    Joined they are the text that TRL trains on, up to the token that ends the answer.
    """
    chats = []
    for prompt, answer in zip(prompts, answers, strict=True):
        chats.append(as_messages("user", prompt) + as_messages("assistant", answer))
    whole = tokenizer.apply_chat_template(chats, tokenize=False)
    end, _ = answer_end(tokenizer)
    exchanges = []
    around = _around_answers(tokenizer, prompts)
    for text, (before, after) in zip(whole, around, strict=True):
        start = common_length(text, before.rstrip(" "))
        exchanges.append((text[:start], text[start:].removesuffix(after) + end))
    return exchanges


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items two texts or lists of tokens have in common at their start."""
    pairs = enumerate(zip(first, second, strict=False))
    shorter = min(len(first), len(second))
    return next((place for place, (one, other) in pairs if one != other), shorter)


def answer_end(tokenizer: Any) -> tuple[str, str]:
    """What the chat template writes behind an answer up to its first special token, and that token.

    It need not be the tokenizer's EOS. Both are "" where a template ends no answer by a token.
    """
    ((_, after),) = _around_answers(tokenizer, ["Prompt"])
    special = set(tokenizer.all_special_tokens)
    special |= {token.content for token in tokenizer.added_tokens_decoder.values()}
    found = [(after.index(token), -len(token), token) for token in special if token in after]
    marks = [mark for mark in found if mark[2].strip()]  # some tokenizers add runs of spaces
    if not marks:
        return "", ""
    start, _, token = min(marks)
    return after[: start + len(token)], token


def stop_tokens(settings: Any, tokenizer: Any) -> list[int]:
    """Ids of what ends an answer: by the model's GenerationConfig, EOS, and the template's end."""
    stops = settings.eos_token_id
    if not isinstance(stops, list):
        stops = [stops]
    _, token = answer_end(tokenizer)
    stops = [*stops, tokenizer.eos_token_id]
    if token:
        stops.append(tokenizer.convert_tokens_to_ids(token))
    return [stop for stop in dict.fromkeys(stops) if stop is not None]


def _around_answers(tokenizer: Any, prompts: Iterable[str]) -> list[tuple[str, str]]:
    """What the chat template writes before and behind the answer to each prompt.

    CourseError: it takes no user's message followed by an assistant's.
    """
    mark = "ANSWER"
    answer = as_messages("assistant", mark)
    chats = [as_messages("user", prompt) + answer for prompt in prompts]
    try:
        texts = tokenizer.apply_chat_template(chats, tokenize=False)
    except Exception as error:  # the template's own, whatever it raises
        raise CourseError(
            f"The chat template does not take a prompt and an answer ({str(error)[:120]!r}): name "
            "an Instruct tokenizer by --tokenizer."
        ) from None
    around = []
    for text in texts:
        before, found, after = text.rpartition(mark)
        if not found:
            raise CourseError(
                "The chat template leaves the answer out: name another tokenizer by --tokenizer."
            )
        around.append((before, after))
    return around


def stories(answer: str, finished: bool, condition: str, k: int = 4) -> list[dict[str, Any]]:
    """The stories of one answer: one, or exactly `k` of a verbalised answer.

    Args:
        finished: False where a limit cut the answer.

    Returns:
        Dictionaries with text and finished; of a verbalised answer also probability (None where no
        number from 0 to 1 is given) and unreadable (True where the answer holds fewer than `k`
        stories in the form asked for; their text is empty, so they count as failures).
    """
    answer = _REASONING.sub("", answer)
    if condition != "verbalised":
        return [{"text": answer.strip(), "finished": finished}]
    found = []
    for block in _RESPONSE.finditer(answer):
        content = block[1]
        inner = _TEXT.search(content)
        text = inner[1] if inner else _PROBABILITY_PART.sub("", content)
        if not text.strip():
            continue
        closed = block[2] or (inner and inner[2])
        followed = block.end() < len(answer)
        whole = bool(finished or closed or followed)
        story = {"text": text.strip(), "finished": whole, "probability": _probability(content)}
        found.append(story | {"unreadable": False})
    missing = {"text": "", "finished": finished, "probability": None, "unreadable": True}
    while len(found) < k:
        found.append(dict(missing))
    return found[:k]


def with_counts(answer: dict[str, Any], condition: str = "plain", k: int = 1) -> list[Any]:
    """The `stories` of an answer (text, finished and COUNTS); the first carries what it used."""
    found = stories(answer["text"], answer["finished"], condition, k)
    for story in found:
        story |= {"tokens": None, **dict.fromkeys(("calls", *COUNTS), 0)}
    found[0] |= {"calls": 1, **{name: answer[name] for name in COUNTS}}
    if condition == "verbalised":
        found[0]["raw"] = answer["text"]
    else:
        found[0]["tokens"] = answer["completion_tokens"]
    return found


def _probability(block: str) -> float | None:
    number = _PROBABILITY.search(block)
    if not number:
        return None
    value = float(number[1])
    if number[2]:  # a percent sign
        value /= 100
    return value if value <= 1 else None
