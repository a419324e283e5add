"""Models behind an OpenAI-compatible endpoint: each answer is stored as it comes, none paid twice.

The client library repeats calls after 408, 409, 429, 5xx, broken connections and time-outs. A
server may charge for an answer that was lost on its way: a record's `repeats` counts those calls.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..settings import CourseError
from ..storage.adapters import CONFIG, adapter_digest
from ..storage.answer_store import AnswerStore, Key, Record
from ..storage.files import short_digest
from .calls import ENGINES, NO_KEY, Calls, list_models
from .prompting import WORDING, Chat, chat, check_prompts, request

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Decoding", "Endpoint", "sample_endpoint", "served_models"]

MOST_AT_ONCE = 10**7  # tokens that one request may ask for or carry
LIMIT_NAMES = ("max_tokens", "max_completion_tokens")
BOUNDS = {
    "temperature": (0, 100),
    "top_p": (1e-6, 1),
    "max_tokens": (1, 10**6),
    "concurrency": (1, 1000),
    "timeout": (0.001, 86_400),
    "retries": (0, 1000),
}


def _check_bounds(settings: Any) -> None:
    for name, (low, high) in BOUNDS.items():
        value = getattr(settings, name, None)
        if value is not None and not low <= value <= high:
            raise CourseError(f"{name} is a number from {low} to {high:,}; got {value}.")


@dataclass(frozen=True)
class Decoding:
    """How an answer is sampled (arXiv 2503.17126, section 4); None: for models that refuse it."""

    temperature: float | None = 1.0
    top_p: float | None = 0.95
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        _check_bounds(self)


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible endpoint, and how it is called.

    Attributes:
        temperature: of the answers to `answers.get_answers`; None sends none.
        key_variable: environment variable with the key. By default, OpenAI's addresses get that of
            OPENAI_API_KEY, and all others none.
        concurrency: calls at once.
        timeout: seconds without a byte from the endpoint after which a call counts as failed.
        retries: how often a call is repeated before it counts as failed for good.
        prices: of a million prompt tokens and of a million completion tokens.
        confirm: asked with the estimate before the first call; False makes no call.
        system: whether the model takes a system message; else its text goes before the prompt.
        limit_name: max_tokens or max_completion_tokens; None: the latter for OpenAI's addresses.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    temperature: float | None = 0.0
    key_variable: str | None = None
    concurrency: int = 8
    timeout: float = 600.0
    retries: int = 10
    prices: Sequence[float] | None = None
    confirm: Callable[[str], bool] | None = None
    system: bool = True
    limit_name: str | None = None

    def __post_init__(self) -> None:
        _check_bounds(self)
        named = bool(self.model.strip()) and self.limit_name in (None, *LIMIT_NAMES)
        if not named or not all(0 <= price < math.inf for price in self.prices or ()):
            raise CourseError(
                f"An endpoint needs a model, prices of 0 or more, and as limit_name "
                f"{' or '.join(LIMIT_NAMES)}."
            )
        self._check_address()

    def _check_address(self) -> None:
        """None; CourseError for an address that is none, or that would show a key to others."""
        try:
            address = urlsplit(self.base_url)
            host = "" if address.port == 0 else address.hostname or ""
            host.encode("idna")
        except ValueError:  # no number for a port, half an IPv6 address, or no name of a host
            host = ""
        spaced = not self.base_url.isprintable() or re.search(r"\s", self.base_url)
        if not host or spaced or address.scheme not in ("http", "https"):
            raise CourseError("The endpoint's address is http:// or https:// and a host.")
        secret = self.key_variable or self.of_openai or address.password
        if secret and address.scheme == "http" and _is_public(host):
            raise CourseError(
                f"A key would go unencrypted to {host!r}: give its address with https://, or leave "
                "the key out."
            )

    @property
    def name(self) -> str:
        """The model's name for records: of a folder its last part."""
        path = Path(self.model)
        return path.name if path.exists() else self.model

    @property
    def file_name(self) -> str:
        """The model's name as part of a file's name."""
        return re.sub("[/:]", "-", self.name)

    @property
    def host(self) -> str:
        """The address's host and port, without the name and password that may stand before them."""
        return urlsplit(self.base_url).netloc.rpartition("@")[2]

    @property
    def of_openai(self) -> bool:
        """Whether the address is one of OpenAI's."""
        host = urlsplit(self.base_url).hostname or ""
        return host == "openai.com" or host.endswith(".openai.com")

    def settings(self, decoding: Decoding) -> Record:
        """What a request says of sampling and length."""
        # OpenAI's reasoning models know the newer name only, most other servers the older one
        limit = self.limit_name or LIMIT_NAMES[self.of_openai]
        settings = {  # in this order: stored answers carry their digest
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            limit: decoding.max_tokens,
        }
        return {name: value for name, value in settings.items() if value is not None}

    def key(self) -> str:
        """The key, from the environment; NO_KEY for a server that asks for none."""
        # no message repeats the variable's name, which may be the key itself by mistake
        if not self.key_variable and not self.of_openai:
            return NO_KEY
        key = os.environ.get(self.key_variable or "OPENAI_API_KEY", "").strip()
        if not re.fullmatch("[!-~]+", key):  # printable ASCII
            raise CourseError(
                "The key's environment variable (OPENAI_API_KEY, or that of --key-variable) holds "
                "no usable key: set it in the shell, and give its name, never the key."
            )
        return key


def _is_public(host: str) -> bool:
    """Whether others than this machine's own network may carry what is sent to the host."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_global
    except ValueError:
        private = (".local", ".localhost", ".internal", ".lan", ".home.arpa")
        return "." in host and not host.endswith(private)


def served_models(
    endpoint: Endpoint, adapters: Mapping[str, Path | None]
) -> tuple[str, dict[str, str]]:
    """The server's engine, and its name for the model of each row.

    That is the row's own name; without an adapter (None) that or the base model's. SGLang, which
    would sample the base model under an adapter's name alone, is asked for `base:name`.

    Raises:
        CourseError: as `list_models`; it lacks a name, or lists another adapter under it, so far as
            its path is one of this machine.
    """
    engine, models = list_models(endpoint)
    listed = {model["id"]: model for model in models}
    base = models[0]["id"] if engine in ENGINES else None  # theirs comes first
    names, missing = {}, []
    for row, adapter in adapters.items():
        name = row if row in listed or adapter else base
        if name not in listed:
            missing.append(f"{row}={adapter}" if adapter else row)
            continue
        path = Path(str(listed[name].get("root")))
        here = adapter and (path / CONFIG).is_file()
        if here and adapter_digest(path) != adapter_digest(adapter):
            raise CourseError(f"{endpoint.host} has {path} as {row}: it is not {adapter}.")
        parent = listed[name].get("parent")
        names[row] = f"{parent}:{name}" if engine == "sglang" and parent else name
    if missing:
        raise CourseError(
            f"{endpoint.host} lists {', '.join(listed) or 'no model'}: it has to serve "
            f"{' '.join(missing)} as well (vLLM: --lora-modules, SGLang: --lora-paths)."
        )
    return engine, names


def sample_endpoint(
    prompts: pd.DataFrame,
    path: str | Path,
    endpoint: Endpoint,
    condition: str = "plain",
    samples: int = 4,
    decoding: Decoding | None = None,
) -> pd.DataFrame:
    """Sample `samples` stories to every prompt from an endpoint: a frame, in order.

    They are appended to `path`. The same call again makes the missing calls only; so does one with
    more prompts, or more samples unless they are verbalised.

    Args:
        path: JSONL file with the columns of `sampling.sample_stories` and what each call used, on
            its first record; of verbalised calls also what `prompting.stories` adds, and `raw`.
        condition: see `prompting`; a verbalised call may have `samples` times as many tokens.

    Raises:
        CourseError: bad arguments; `path` holds something else, or another process uses it; as
            `calls.Calls.make`.
    """
    import pandas as pd

    texts = check_prompts(prompts, samples, condition)
    decoding = decoding or Decoding()
    if condition != "plain" and samples * decoding.max_tokens > MOST_AT_ONCE:
        raise CourseError(
            f"{samples} stories of {decoding.max_tokens} tokens fit no request: ask for fewer, or "
            "for plain samples."
        )
    source = f"{endpoint.name} {condition}"
    k = samples if condition == "verbalised" else 1  # stories of one call
    limit = decoding.max_tokens * k
    settings = endpoint.settings(replace(decoding, max_tokens=limit))
    sampling = (decoding.max_tokens, decoding.temperature, decoding.top_p)
    facts: list[Any] = [endpoint.model, source, condition, k, *sampling, WORDING]
    if not endpoint.system:
        facts.append("no system message")
    run = short_digest(*facts, length=16)

    def call_of(key: Key) -> list[Key]:
        prompt_id, number = key
        first = number - number % k
        return [(prompt_id, first + n) for n in range(k)]

    def messages(key: Key, unwritten: str) -> Chat:
        prompt_id, number = key
        earlier = []
        if condition == "iterative":
            for n in range(number):
                record = store.records.get((prompt_id, n), {"text": unwritten})
                earlier.append(record["text"])
        text = request(texts[prompt_id], condition, k, [story for story in earlier if story])
        return chat(text, condition, endpoint.system)

    with AnswerStore(Path(path), run, texts, call_of, source) as store:
        chains = []
        for prompt_id in texts:
            firsts = [(prompt_id, n) for n in range(0, samples, k)]
            missing = [key for key in firsts if key not in store.records]
            if condition == "iterative":  # each call has to wait for the prompt's one before
                chains.append(missing)
            else:
                chains += [[key] for key in missing]
        if any(chains):
            Calls(endpoint, store, settings, messages, condition, k).make(chains, limit)
        keys = [(prompt_id, n) for prompt_id in texts for n in range(samples)]
        return pd.DataFrame([store.records[key] for key in keys])
