"""Models behind an OpenAI-compatible endpoint: each answer is stored as it comes, none paid twice.

The client library repeats calls after 408, 409, 429, 5xx, broken connections and time-outs. A
server may charge for an answer that was lost on its way: a record's `repeats` counts those calls.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..settings import CourseError, progress_bar
from ..storage.answers import AnswerStore, Key, Record
from ..storage.files import short_digest
from .prompting import WORDING, chat, check_condition, check_prompts, request, stories

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OPENAI", "Decoding", "Endpoint", "sample_endpoint"]

OPENAI = "https://api.openai.com/v1"
CHARACTERS_A_TOKEN = 4  # about, in English
TOKENS_AROUND_A_MESSAGE = 4  # of a chat template, about
COUNTS = ("prompt_tokens", "completion_tokens")
NO_KEY = "none"  # the client library always sends a key

Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Decoding:
    """How an answer is sampled, and its longest length in tokens.

    None sends no setting, for models that refuse it (o1). Source of the defaults: arXiv
    2503.17126, section 4.
    """

    temperature: float | None = 1.0
    top_p: float | None = 0.95
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise CourseError(f"max_tokens is 1 or more; got {self.max_tokens}.")


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible endpoint, and how it is called.

    Attributes:
        model: the endpoint's name of the model.
        base_url: address; that of other servers than OpenAI's usually ends in /v1.
        temperature: of the answers to `answers.get_answers`; None sends none.
        key_variable: name of the environment variable with the key. Without it, OpenAI's addresses
            get that of OPENAI_API_KEY, and all others none.
        concurrency: calls under way at once.
        timeout: seconds without a byte from the endpoint after which a call counts as failed.
        retries: how often a call is repeated before it counts as failed for good.
        prices: of a million prompt tokens and of a million completion tokens, in any currency.
        confirm: asked with the estimate before the first call; False makes no call.
    """

    model: str
    base_url: str = OPENAI
    temperature: float | None = 0.0
    key_variable: str | None = None
    concurrency: int = 8
    timeout: float = 600.0
    retries: int = 10
    prices: Sequence[float] | None = None
    confirm: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        if not self.model.strip() or min(self.concurrency, self.retries + 1, self.timeout) <= 0:
            raise CourseError("An endpoint needs a model, and concurrency and timeout above 0.")
        try:
            address = urlsplit(self.base_url)
            valid = address.scheme in ("http", "https") and address.hostname and address.port != 0
        except ValueError:  # no number for a port, or half an IPv6 address
            valid = False
        if not valid:
            raise CourseError("The endpoint's address is http:// or https:// and a host.")

    @property
    def name(self) -> str:
        """The model's name for records: of a folder its last part."""
        return Path(self.model).name if Path(self.model).exists() else self.model

    @property
    def file_name(self) -> str:
        """The model's name as part of a file's name."""
        return self.name.replace("/", "-").replace(":", "-")

    @property
    def of_openai(self) -> bool:
        """Whether the address is one of OpenAI's."""
        host = urlsplit(self.base_url).hostname or ""
        return host == "openai.com" or host.endswith(".openai.com")

    def settings(self, decoding: Decoding) -> Record:
        """What a request says of sampling and length."""
        # OpenAI's reasoning models know the newer name only, most other servers the older one
        limit = "max_completion_tokens" if self.of_openai else "max_tokens"
        values = {"temperature": decoding.temperature, "top_p": decoding.top_p}
        values[limit] = decoding.max_tokens
        return {name: value for name, value in values.items() if value is not None}

    def key(self) -> str:
        """The key, from the environment; NO_KEY for a server that asks for none."""
        # no message repeats the variable's name, which may be the key itself by mistake
        name = self.key_variable or ("OPENAI_API_KEY" if self.of_openai else "")
        if not name:
            return NO_KEY
        key = os.environ.get(name, "").strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise CourseError(
                "The key's environment variable (OPENAI_API_KEY, or another by key_variable) holds "
                "no usable key: set it in the shell, and give its name, never the key."
            )
        return key

    def ask(self, client: Any, messages: Chat, settings: Any) -> Record:
        """One call: text, finished, prompt_tokens and completion_tokens (None: uncounted), repeats.

        A prompt that the endpoint's filter withholds gives an empty, unfinished answer.
        """
        from openai import OpenAIError

        try:
            answer = client.chat.completions.with_raw_response.create(
                model=self.model, messages=messages, **settings
            )
            reply = answer.parse()
            choice, usage = reply.choices[0], reply.usage
            return {
                "text": choice.message.content or "",
                "finished": choice.finish_reason == "stop",
                "prompt_tokens": usage.prompt_tokens if usage else None,
                "completion_tokens": usage.completion_tokens if usage else None,
                "repeats": answer.retries_taken,
            }
        except OpenAIError as error:
            if getattr(error, "code", None) != "content_filter":
                raise self._fault(error, client.api_key) from None
            return {"text": "", "finished": False, **dict.fromkeys((*COUNTS, "repeats"), 0)}
        except (AttributeError, LookupError, TypeError, ValueError):
            raise CourseError(
                "The endpoint's answer is no chat completion: its address usually ends in /v1."
            ) from None

    def _fault(self, error: Exception, key: str) -> CourseError:
        """One sentence for a call that failed for good, without the key."""
        status = getattr(error, "status_code", None)
        words = " ".join(str(error).split())
        words = words if key == NO_KEY else words.replace(key, "[key]")
        reasons = {  # some servers repeat parts of the key: their words are left out
            401: "401: the key was refused; name the variable of this endpoint's key",
            403: f"403: this key may not use {self.model!r}",
            404: f"404: no model {self.model!r} at this address, which usually ends in /v1",
            None: f"{words[:200].rstrip('.')}; does a server run there?",
        }
        host = urlsplit(self.base_url).netloc.rpartition("@")[2]
        why = reasons.get(status, f"{type(error).__name__}, {words[:200].rstrip('.')}")
        return CourseError(
            f"{host} does not answer as asked, after the retries ({why}). What was received is "
            "stored; the same call again makes the missing ones."
        )

    def call_all(
        self,
        label: str,
        chains: Sequence[Sequence[Any]],
        tokens: tuple[int, int],
        make: Callable[[Any, Any], Record],
        progress: bool = True,
    ) -> None:
        """Make the calls of each chain one after the other, and the chains side by side.

        An estimate is printed and confirmed before the first call, the use after the last. After a
        fault or Ctrl-C, calls under way are waited for and no other is begun.

        Args:
            label: begins the printed lines.
            chains: at least one call in all.
            tokens: what the prompts hold, and the most that the answers may hold.
            make: makes one call with the library's client and stores it; gives what `ask` gives.

        Raises:
            CourseError: the key is missing, `confirm` said no, or a call failed for good.
        """
        from openai import OpenAI

        key, count = self.key(), sum(map(len, chains))
        estimate = _use(f"{count} calls to make; estimate: at most about", tokens, self.prices)
        print(f"{label}: {estimate}; repeats after errors are extra.", flush=True)
        if self.confirm is not None and not self.confirm(estimate):
            raise CourseError("Nothing was sent: the estimate was not agreed to.")
        options = {"timeout": self.timeout, "max_retries": self.retries}
        client = OpenAI(api_key=key, base_url=self.base_url, **options)
        if not self.of_openai:  # the library takes both from the environment
            client.organization = client.project = None
        stop, answers = Event(), []
        bar = progress_bar(shown=progress, total=count, desc=label, leave=False)

        def follow(chain: Sequence[Any]) -> None:
            for call in chain:
                if stop.is_set():
                    return
                try:
                    answers.append(make(client, call))
                except BaseException:
                    stop.set()
                    raise
                bar.update()

        try:
            with client, bar, ThreadPoolExecutor(self.concurrency) as pool:
                try:
                    for future in as_completed([pool.submit(follow, chain) for chain in chains]):
                        future.result()
                finally:
                    stop.set()
        finally:
            sent = sum(answer["prompt_tokens"] or 0 for answer in answers)
            received = sum(answer["completion_tokens"] or 0 for answer in answers)
            uncounted = sum(answer["prompt_tokens"] is None for answer in answers)
            repeats = sum(answer["repeats"] for answer in answers)
            use = _use(f"{len(answers)} calls used", (sent, received), self.prices)
            print(f"{label}: {use}.", flush=True)
            if uncounted or repeats:
                print(f"{uncounted} calls came without a count; {repeats} repeats after errors.")


def _use(calls: str, tokens: Sequence[int], prices: Sequence[float] | None) -> str:
    """How many tokens calls use, and what they cost."""
    use = f"{calls} {tokens[0]:,} prompt tokens and {tokens[1]:,} completion tokens"
    if prices is None:
        return use
    cost = (tokens[0] * prices[0] + tokens[1] * prices[1]) / 1e6
    return f"{use} ({cost:,.4f} at the prices given)"


def count_tokens(messages: Chat) -> int:
    """Tokens of a chat, about."""
    lengths = [math.ceil(len(message["content"]) / CHARACTERS_A_TOKEN) for message in messages]
    return sum(lengths) + TOKENS_AROUND_A_MESSAGE * len(lengths)


def sample_endpoint(
    prompts: pd.DataFrame,
    path: str | Path,
    endpoint: Endpoint,
    condition: str = "plain",
    samples: int = 4,
    decoding: Decoding | None = None,
    source: str = "",
    progress: bool = True,
) -> pd.DataFrame:
    """Sample `samples` stories to every prompt from an endpoint, and append them to `path`.

    A run that was stopped or failed, called again, makes the missing calls only; so does one with
    more prompts, or more samples unless they are verbalised.

    Args:
        prompts: a frame with `prompt_id` (each once) and `prompt`.
        path: JSONL file with the columns of `sampling.sample_stories` and what each call used, on
            its first record; of verbalised calls also what `prompting.stories` adds, and `raw`.
        condition: plain, iterative (a prompt's stories one after the other) or verbalised (one
            call for all of them, which may have `samples` times as many tokens).
        samples: stories per prompt.
        decoding: by default the paper's.
        source: name in the records, by default the model and the condition.

    Returns:
        All samples asked for, as a frame, in order of prompts and samples.

    Raises:
        CourseError: bad arguments; `path` holds something else, or another process uses it; as
            `Endpoint.call_all`.
    """
    import pandas as pd

    check_condition(condition, samples)
    check_prompts(prompts)
    decoding = decoding or Decoding()
    source = source or f"{endpoint.name} {condition}"
    k = samples if condition == "verbalised" else 1  # stories of one call
    limit = decoding.max_tokens * k
    settings = endpoint.settings(replace(decoding, max_tokens=limit))
    texts = dict(zip(prompts["prompt_id"].tolist(), prompts["prompt"].tolist(), strict=True))
    sampling = (decoding.max_tokens, decoding.temperature, decoding.top_p)
    run = short_digest(endpoint.model, source, condition, k, *sampling, WORDING, length=16)

    def call_of(key: Key) -> list[Key]:
        first = key[1] - key[1] % k
        return [(key[0], first + n) for n in range(k)]

    def messages(key: Key, unwritten: str = "") -> Chat:
        earlier = []
        for n in range(key[1]):
            record = store.records.get((key[0], n), {"text": unwritten})
            earlier.append(record["text"])
        return chat(request(texts[key[0]], condition, k, list(filter(None, earlier))), condition)

    def make(client: Any, key: Key) -> Record:
        answer = endpoint.ask(client, messages(key), settings)
        store.add(_records(answer, key, texts[key[0]], source, condition, k))
        return answer

    with AnswerStore(path, run, texts, call_of) as store:
        firsts = [(prompt_id, n) for prompt_id in texts for n in range(0, samples, k)]
        missing = [key for key in firsts if key not in store.records]
        if missing:
            longest = "x".ljust(CHARACTERS_A_TOKEN * decoding.max_tokens, "x")
            tokens = sum(count_tokens(messages(key, longest)) for key in missing)
            chains = [[key] for key in missing]
            if condition == "iterative":  # each call has to wait for the prompt's one before
                chains = [list(calls) for _, calls in groupby(missing, key=itemgetter(0))]
            endpoint.call_all(source, chains, (tokens, len(missing) * limit), make, progress)
        keys = [(prompt_id, n) for prompt_id in texts for n in range(samples)]
        return pd.DataFrame([store.records[key] for key in keys])


def _records(
    answer: Record, key: Key, prompt: str, source: str, condition: str, k: int
) -> list[Record]:
    """The records of one call's stories; only the first carries what the call used."""
    used = {name: answer[name] for name in (*COUNTS, "repeats")}
    records = []
    for n, story in enumerate(stories(answer["text"], answer["finished"], condition, k)):
        record = {"prompt_id": key[0], "prompt": prompt, "sample": key[1] + n, "source": source}
        tokens = used["completion_tokens"] if condition != "verbalised" else None
        records.append({**record, **story, "tokens": tokens, "calls": int(n == 0), **used})
        used = dict.fromkeys(used, 0)
    if condition == "verbalised":
        records[0]["raw"] = answer["text"]
    return records
