"""Models behind an OpenAI-compatible endpoint: each answer is stored as it comes, none paid twice.

The client library repeats calls after 408, 409, 429, 5xx, broken connections and time-outs. A
server may charge for an answer that was lost on its way: a record's `repeats` counts those calls.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..settings import CourseError, progress_bar
from ..storage.answer_store import AnswerStore, Key, Record
from ..storage.files import short_digest
from .prompting import (
    CHARACTERS_A_TOKEN,
    WORDING,
    chat,
    check_prompts,
    count_tokens,
    request,
    stories,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OPENAI", "Decoding", "Endpoint", "sample_endpoint"]

OPENAI = "https://api.openai.com/v1"
COUNTS = ("prompt_tokens", "completion_tokens", "repeats")
NO_KEY = "none"  # the client library always sends a key

Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Decoding:
    """How an answer is sampled (arXiv 2503.17126, section 4); None: for models that refuse it."""

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
        temperature: of the answers to `answers.get_answers`; None sends none.
        key_variable: environment variable with the key. By default, OpenAI's addresses get that of
            OPENAI_API_KEY, and all others none.
        concurrency: calls at once.
        timeout: seconds without a byte from the endpoint after which a call counts as failed.
        retries: how often a call is repeated before it counts as failed for good.
        prices: of a million prompt tokens and of a million completion tokens.
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
            has_host = address.hostname and address.port != 0
        except ValueError:  # no number for a port, or half an IPv6 address
            has_host = False
        if not has_host or address.scheme not in ("http", "https"):
            raise CourseError("The endpoint's address is http:// or https:// and a host.")

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
    def of_openai(self) -> bool:
        """Whether the address is one of OpenAI's."""
        host = urlsplit(self.base_url).hostname or ""
        return host == "openai.com" or host.endswith(".openai.com")

    def settings(self, decoding: Decoding) -> Record:
        """What a request says of sampling and length."""
        # OpenAI's reasoning models know the newer name only, most other servers the older one
        limit = "max_completion_tokens" if self.of_openai else "max_tokens"
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
                "The key's environment variable (OPENAI_API_KEY, or another by key_variable) holds "
                "no usable key: set it in the shell, and give its name, never the key."
            )
        return key

    def ask(self, client: Any, messages: Chat, settings: Any) -> Record:
        """One call: text, finished, prompt_tokens and completion_tokens (None: uncounted), repeats.

        A prompt that the endpoint's filter refuses gives an empty, unfinished answer.
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
            return {"text": "", "finished": False, **dict.fromkeys(COUNTS, 0)}
        except (AttributeError, LookupError, TypeError, ValueError):
            raise CourseError(
                "The endpoint's answer is no chat completion: its address usually ends in /v1."
            ) from None

    def _fault(self, error: Exception, key: str) -> CourseError:
        """One sentence for a call that failed for good, without the key."""
        words = " ".join(str(error).split())
        if key != NO_KEY:
            words = words.replace(key, "[key]")
        words = words[:200].rstrip(".")
        reasons = {  # some servers repeat parts of the key: their words are left out
            401: "401: the key was refused; name the variable of this endpoint's key",
            403: f"403: this key may not use {self.model!r}",
            404: f"404: no model {self.model!r} at this address, which usually ends in /v1",
            None: f"{words}; does a server run there?",
        }
        status = getattr(error, "status_code", None)
        reason = reasons.get(status, f"{type(error).__name__}, {words}")
        host = urlsplit(self.base_url).netloc.rpartition("@")[2]
        return CourseError(
            f"{host} does not answer as asked, after the retries ({reason}). What was received is "
            "stored; the same call again makes the missing ones."
        )

    def call_all(
        self,
        label: str,
        chains: Sequence[Sequence[Any]],
        tokens: tuple[int, int],
        make: Callable[[Any, Any], Record],
    ) -> None:
        """Make the calls of each chain one after the other, and the chains side by side.

        An estimate is printed and confirmed before the first call, the use after the last. After a
        fault or Ctrl-C, running calls are finished and no other is started.

        Args:
            tokens: of all prompts, and the most that the answers may have.
            make: makes one call with the library's client and stores it; gives what `ask` gives.

        Raises:
            CourseError: the key is missing, `confirm` said no, or a call failed for good.
        """
        from openai import OpenAI

        key = self.key()
        count = sum(len(chain) for chain in chains)
        estimate = f"{count} calls to make; estimate: at most about {self._use(*tokens)}"
        print(f"{label}: {estimate}; repeats after errors are extra.", flush=True)
        if self.confirm is not None and not self.confirm(estimate):
            raise CourseError("Nothing was sent: the estimate was not agreed to.")
        options = {"timeout": self.timeout, "max_retries": self.retries}
        client = OpenAI(api_key=key, base_url=self.base_url, **options)
        if not self.of_openai:  # the library takes both from the environment
            client.organization = client.project = None
        stop = Event()
        answers: list[Record] = []
        bar = progress_bar(total=count, desc=label, leave=False)

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
            self._print_use(label, answers)

    def _use(self, prompt_tokens: int, completion_tokens: int) -> str:
        """Numbers of tokens, and what they cost."""
        use = f"{prompt_tokens:,} prompt tokens and {completion_tokens:,} completion tokens"
        if self.prices is None:
            return use
        prompt_price, completion_price = self.prices
        cost = (prompt_tokens * prompt_price + completion_tokens * completion_price) / 1e6
        return f"{use} ({cost:,.4f} at the prices given)"

    def _print_use(self, label: str, answers: Sequence[Record]) -> None:
        counted = [answer for answer in answers if answer["prompt_tokens"] is not None]
        prompt_tokens = sum(answer["prompt_tokens"] for answer in counted)
        completion_tokens = sum(answer["completion_tokens"] for answer in counted)
        repeats = sum(answer["repeats"] for answer in answers)
        uncounted = len(answers) - len(counted)
        print(f"{label}: {len(answers)} calls used {self._use(prompt_tokens, completion_tokens)}.")
        if uncounted or repeats:
            print(f"{uncounted} calls came without a count; {repeats} repeats after errors.")


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
            `Endpoint.call_all`.
    """
    import pandas as pd

    check_prompts(prompts, samples, condition)
    decoding = decoding or Decoding()
    source = f"{endpoint.name} {condition}"
    k = samples if condition == "verbalised" else 1  # stories of one call
    limit = decoding.max_tokens * k
    settings = endpoint.settings(replace(decoding, max_tokens=limit))
    texts = dict(prompts[["prompt_id", "prompt"]].values.tolist())
    sampling = (decoding.max_tokens, decoding.temperature, decoding.top_p)
    run = short_digest(endpoint.model, source, condition, k, *sampling, WORDING, length=16)

    def call_of(key: Key) -> list[Key]:
        prompt_id, number = key
        first = number - number % k
        return [(prompt_id, first + n) for n in range(k)]

    def messages(key: Key, unwritten: str = "") -> Chat:
        """The chat of one call, with `unwritten` in the place of missing stories."""
        prompt_id, number = key
        earlier = []
        for n in range(number):
            record = store.records.get((prompt_id, n), {"text": unwritten})
            if record["text"]:
                earlier.append(record["text"])
        return chat(request(texts[prompt_id], condition, k, earlier), condition)

    def make(client: Any, key: Key) -> Record:
        answer = endpoint.ask(client, messages(key), settings)
        prompt_id, number = key
        facts = {"prompt_id": prompt_id, "prompt": texts[prompt_id]}
        facts |= {"sample": number, "source": source}
        store.add(_records(answer, facts, condition, k))
        return answer

    with AnswerStore(path, run, texts, call_of) as store:
        chains = []
        for prompt_id in texts:
            firsts = [(prompt_id, n) for n in range(0, samples, k)]
            missing = [key for key in firsts if key not in store.records]
            if condition == "iterative":  # each call has to wait for the prompt's one before
                chains.append(missing)
            else:
                chains += [[key] for key in missing]
        calls = [key for chain in chains for key in chain]
        if calls:
            longest = "".ljust(CHARACTERS_A_TOKEN * decoding.max_tokens, "x")
            prompt_tokens = sum(count_tokens(messages(key, longest)) for key in calls)
            endpoint.call_all(source, chains, (prompt_tokens, len(calls) * limit), make)
        keys = [(prompt_id, n) for prompt_id in texts for n in range(samples)]
        return pd.DataFrame([store.records[key] for key in keys])


def _records(answer: Record, facts: Record, condition: str, k: int) -> list[Record]:
    """The records of one call's stories; only the first carries what the call used."""
    used = {name: answer[name] for name in COUNTS}
    records = []
    for n, story in enumerate(stories(answer["text"], answer["finished"], condition, k)):
        record = {**facts, **story, "tokens": None, "calls": 1, **used}
        record["sample"] += n
        if condition != "verbalised":
            record["tokens"] = answer["completion_tokens"]
        if n:
            record |= dict.fromkeys(("calls", *COUNTS), 0)
        records.append(record)
    if condition == "verbalised":
        records[0]["raw"] = answer["text"]
    return records
