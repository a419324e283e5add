"""Calls of an endpoint, side by side, and what servers reply, each in its own way."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any

from ..settings import CourseError, progress_bar
from ..storage.answer_store import AnswerStore, Key, Record
from ..storage.files import whole_text
from ..storage.markdown import printable
from .prompting import CHARACTERS_A_TOKEN, COUNTS, Asked, count_tokens, with_counts

if TYPE_CHECKING:
    from .endpoint import Endpoint

__all__ = ["NO_KEY", "Calls", "list_models"]

ENGINES = ("vllm", "sglang")  # as they call themselves; they take token ids, top_k and the like
SERVE = "transformers serve"  # takes a text, and a GenerationConfig
MOST_COUNTED = 10**9  # tokens of one call; a larger count is none
NO_KEY = "none"  # the client library always sends a key
NO_ANSWER: Record = {"text": "", "finished": False, **dict.fromkeys(COUNTS, 0)}
PATIENCE = 3  # prompts refused in a row for no known reason; one more is a fault of the settings
REASONS = {  # without the server's words, which may repeat parts of the key
    401: "the key was refused; name the variable of this endpoint's key",
    403: "this key may not use the model, or the prompt was refused",
    404: "no such model at this address, which usually ends in /v1",
}
HINTS = {
    None: "does a server run there?",
    400: "if it names one of them, try --limit-name max_completion_tokens, --no-system, "
    "--temperature none or --top-p none",
}
HINTS[422] = HINTS[400]
HINTS |= dict.fromkeys(range(300, 400), "it redirects; give the address that it redirects to")

# Reasons for an end that say that an answer is not whole; servers have many names for a whole one.
_CUT = re.compile(
    "length|max_?tokens|filter|safety|error|abort|cancel|recitation|block|prohibit|interrupt|"
    "timeout|truncat|incomplete|insufficient|tool|function|refus|spii",
    re.I,
)
_TEMPORARY = re.compile("rate.?limit|overload|unavailable|time.?out|server|internal|busy", re.I)
_FILTERED = re.compile(
    "content.?(filter|policy|exists.risk|risk)|usage.?polic|moderat|safety|flagged|sensitive|"
    "inappropriate|unsafe|harmful|guardrail|prohibited|invalid_prompt|data_inspection|nsfw|"
    "responsible.?ai|violat",
    re.I,
)
_UNPAID = re.compile("credit|quota|billing|balance|payment|api.?key", re.I)


class _Refusal(CourseError):
    """The server's words about a prompt, or about the settings of all calls."""


@dataclass
class Calls:
    """The calls that one run makes; each answer is stored as it comes.

    Attributes:
        settings: what a request says of sampling and length.
        messages: what a call asks, with its second argument in the place of missing stories.
        condition, k: how an answer is read; see `prompting.stories`.
        end: what closes an answer and is no part of it, where the server leaves it in.
    """

    endpoint: Endpoint
    store: AnswerStore
    settings: Record
    messages: Callable[[Key, str], Asked]
    condition: str = "plain"
    k: int = 1
    end: str = ""
    _answers: list[Record] = field(default_factory=list)
    _refused: dict[Key, _Refusal] = field(default_factory=dict)
    _in_a_row: set[Any] = field(default_factory=set)  # prompts
    _stop: Event = field(default_factory=Event)

    def make(self, chains: Sequence[Sequence[Key]], limit: int) -> None:
        """None; makes the calls of each chain one after the other, and the chains side by side.

        An estimate is printed and confirmed before the first call, the use after the last. After a
        fault or Ctrl-C, running calls are finished and no other is started. A prompt that is
        refused is kept as an empty answer if the endpoint answers others.

        Args:
            limit: most tokens of an answer.

        Raises:
            CourseError: the key is missing, `confirm` said no, or a call failed for good.
        """
        key = self.endpoint.key()
        calls = [call for chain in chains for call in chain]
        longest = "".ljust(CHARACTERS_A_TOKEN * limit, "x")
        prompt_tokens = sum(count_tokens(self.messages(call, longest)) for call in calls)
        use = self._use(prompt_tokens, len(calls) * limit)
        estimate = f"{len(calls)} calls to make; estimate: at most about {use}"
        print(f"{self.store.source}: {estimate}; repeats after errors are extra.", flush=True)
        if self.endpoint.confirm is not None and not self.endpoint.confirm(estimate):
            raise CourseError("Nothing was sent: the estimate was not agreed to.")
        client = _make_client(self.endpoint, key)
        bar = progress_bar(total=len(calls), desc=self.store.source, leave=False)
        try:
            with client, bar, ThreadPoolExecutor(self.endpoint.concurrency) as pool:
                running = [pool.submit(self._follow, client, chain, bar) for chain in chains]
                try:
                    for future in as_completed(running):
                        future.result()
                finally:
                    self._stop.set()
            self._keep_refused()
        finally:
            self._print_use()

    def _follow(self, client: Any, chain: Sequence[Key], bar: Any) -> None:
        try:
            for call in chain:
                if self._stop.is_set():
                    return
                self._make_one(client, call)
                bar.update()
        except BaseException:
            self._stop.set()
            raise

    def _make_one(self, client: Any, call: Key) -> None:
        try:
            answer = self._ask(client, self.messages(call, ""))
        except _Refusal as refusal:
            self._refused[call] = refusal
            self._in_a_row.add(call[0])
            if len(self._in_a_row) > PATIENCE:
                raise
            return
        self._in_a_row.clear()
        self._keep(call, answer)
        self._answers.append(answer)

    def _keep(self, call: Key, answer: Record) -> None:
        self.store.add(call, with_counts(answer, self.condition, self.k))

    def _keep_refused(self) -> None:
        answered = any(record["text"] for record in self.store.records.values())
        for call, refusal in self._refused.items():
            if not answered:
                raise refusal
            self._keep(call, NO_ANSWER)
        if self._refused:
            print(f"{len(self._refused)} calls were refused, and count as failed: {refusal}")

    def _send(self, client: Any, asked: Asked) -> Any:
        if isinstance(asked, dict):
            create = client.completions.with_raw_response.create
            return create(model=self.endpoint.model, **asked, extra_body=self.settings)
        chat = [{**message, "content": whole_text(message["content"])} for message in asked]
        create = client.chat.completions.with_raw_response.create
        return create(model=self.endpoint.model, messages=chat, **self.settings)

    def _ask(self, client: Any, asked: Asked) -> Record:
        """One call: what `_read_reply` gives, and repeats; NO_ANSWER where a filter refuses."""
        from openai import OpenAIError

        try:
            answer = self._send(client, asked)
            reply = _read_reply(answer.http_response.json())
            text = reply["text"].removesuffix(self.end)
            return {**reply, "text": text, "repeats": answer.retries_taken}
        except OpenAIError as error:
            status, words = getattr(error, "status_code", None), str(error)
            moderated = not isinstance(asked, dict)  # a server of one's own refuses no prompt
            if moderated and status not in (None, 401, 404, 429) and _FILTERED.search(words):
                return NO_ANSWER
            of_prompt = status in (400, 403, 413, 422, 451) and not _UNPAID.search(words)
            kind = _Refusal if of_prompt and moderated else CourseError
            raise kind(_fault(self.endpoint, status, error, client.api_key)) from None
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
            raise CourseError(
                "The endpoint's answer is no chat completion: its address usually ends in /v1."
            ) from None

    def _use(self, prompt_tokens: int, completion_tokens: int) -> str:
        """Numbers of tokens, and what they cost."""
        use = f"{prompt_tokens:,} prompt tokens and {completion_tokens:,} completion tokens"
        if self.endpoint.prices is None:
            return use
        prompt_price, completion_price = self.endpoint.prices
        cost = (prompt_tokens * prompt_price + completion_tokens * completion_price) / 1e6
        return f"{use} ({cost:,.4f} at the prices given)"

    def _print_use(self) -> None:
        answers = self._answers
        prompt_tokens = sum(answer["prompt_tokens"] or 0 for answer in answers)
        completion_tokens = sum(answer["completion_tokens"] or 0 for answer in answers)
        repeats = sum(answer["repeats"] for answer in answers)
        uncounted = sum(None in answer.values() for answer in answers)
        use = self._use(prompt_tokens, completion_tokens)
        print(f"{self.store.source}: {len(answers)} calls used {use}.")
        if uncounted or repeats:
            print(f"{uncounted} calls came without a count; {repeats} repeats after errors.")


def _make_client(endpoint: Endpoint, key: str) -> Any:
    """The library's client. It follows no redirect, and OpenAI alone gets OPENAI_ variables."""
    from openai import DefaultHttpxClient, OpenAI

    hidden = {}
    for name in list(os.environ):
        if name.startswith("OPENAI_") and name != "OPENAI_LOG" and not endpoint.of_openai:
            hidden[name] = os.environ.pop(name)
    hooks = {"response": [_show_hidden_error]}
    try:
        return OpenAI(
            api_key=key,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout,
            max_retries=endpoint.retries,
            http_client=DefaultHttpxClient(follow_redirects=False, event_hooks=hooks),
        )
    finally:
        os.environ |= hidden


def list_models(endpoint: Endpoint) -> tuple[str, list[Record]]:
    """The server's engine (of ENGINES, or SERVE), and what it says of each model that it lists.

    Raises:
        CourseError: it does not answer, or it is another one, which may ignore how to sample.
    """
    from openai import OpenAIError

    key = endpoint.key()
    with _make_client(endpoint, key).with_options(max_retries=2) as client:
        try:
            reply = client.models.with_raw_response.list().http_response.json()
            models = [{**model, "id": str(model["id"])} for model in reply["data"]]
            engine = models[0].get("owned_by") if models else ""
            if engine not in ENGINES and _refuses_unknown_fields(client):
                engine = SERVE
        except OpenAIError as error:
            status = getattr(error, "status_code", None)
            raise CourseError(_fault(endpoint, status, error, key)) from None
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
            engine = None
    if engine not in (*ENGINES, SERVE):
        raise CourseError(
            f"{endpoint.host} is none of {', '.join(ENGINES)} and {SERVE}, and may ignore how to "
            "sample: start one of these; its address usually ends in /v1."
        )
    return engine, models


def _refuses_unknown_fields(client: Any) -> bool:
    """Whether the server is SERVE: it refuses a field of others before it loads a model."""
    from openai import APIStatusError

    try:
        client.completions.create(model="none", prompt="", max_tokens=1, extra_body={"top_k": 1})
    except APIStatusError as error:
        return error.status_code == 422 and "top_k" in str(error.body)
    return False


def _fault(endpoint: Endpoint, status: int | None, error: Exception, key: str) -> str:
    """The sentence for a call that failed for good, without the key."""
    body = getattr(error, "body", None)  # older clients put the whole reply into their message
    told = body.get("message") if isinstance(body, dict) else ""
    words = " ".join(printable(told or error).split())
    if key != NO_KEY:
        words = words.replace(key, "[key]")
    reason = REASONS.get(status)
    if reason is None:
        hint = f"; {HINTS[status]}" if status in HINTS else ""
        reason = f"{type(error).__name__}, {words[:200].rstrip('.')}{hint}"
    return (
        f"{endpoint.host} does not answer as asked, after the retries ({status or 'no answer'}: "
        f"{reason}). What was received is stored; the same call again makes the missing ones."
    )


def _show_hidden_error(response: Any) -> None:
    """None; gives a reply of status 200 that holds an error the error's status.

    A hook of the client library, which then repeats the call or raises.
    """
    if response.status_code != 200:
        return
    response.read()
    try:
        body = response.json()
        choice = (body.get("choices") or [{}])[0]
        error = body.get("error") or choice.get("error")
        has_text = bool((choice.get("message") or choice).get("content") or choice.get("text"))
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return
    if error and not has_text:
        code = str(error.get("code")) if isinstance(error, dict) else ""
        if not re.fullmatch("[45][0-9]{2}", code):
            code = "503" if _TEMPORARY.search(str(error)) else "400"
        response.status_code = int(code)


def _read_reply(body: Any) -> Record:
    """Text, finished, prompt_tokens and completion_tokens (None: uncounted) of a reply.

    AttributeError, LookupError or TypeError: it is no completion.
    """
    choice, usage = body["choices"][0], body.get("usage")
    if not isinstance(usage, dict):
        usage = {}
    content = choice["message"].get("content") if "message" in choice else choice["text"]
    return {
        "text": whole_text(_text_of(content)),
        "finished": not _CUT.search(str(choice.get("finish_reason"))),
        "prompt_tokens": _count(usage.get("prompt_tokens")),
        "completion_tokens": _count(usage.get("completion_tokens")),
    }


def _text_of(content: Any) -> str:
    """The text of a message, or of its parts, those with reasoning left out."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(map(_text_of, content))
    if re.search("think|reason", str(content.get("type"))):
        return ""
    return _text_of(content.get("text", content.get("value")))


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < MOST_COUNTED else None
