"""Calls of an endpoint, side by side, and what servers reply, each in its own way."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..settings import CourseError, progress_bar
from ..storage.answer_store import Key, Record
from ..storage.files import whole_text
from ..storage.markdown import printable

if TYPE_CHECKING:
    from .endpoint import Endpoint

__all__ = ["COUNTS", "NO_KEY", "Calls", "Chat", "read_reply", "show_hidden_error"]

Chat = list[dict[str, str]]
COUNTS = ("prompt_tokens", "completion_tokens", "repeats")
MOST_COUNTED = 10**9  # tokens of one call; a larger count is none
NO_KEY = "none"  # the client library always sends a key
PATIENCE = 3  # prompts refused in a row for no known reason; one more is a fault of the settings
HINTS = {  # words of a refusal: the way out
    "max_completion_tokens": "--limit-name max_completion_tokens",
    "max_tokens": "--limit-name max_completion_tokens, or fewer --max-tokens",
    "system": "--no-system",
    "temperature": "--temperature none",
    "top_p": "--top-p none",
}

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


@dataclass
class Calls:
    """The calls that one run makes.

    Attributes:
        messages: gives a call's chat.
        keep: stores what `ask` gives.
        answered: whether the endpoint has answered other calls of the run before.
    """

    endpoint: Endpoint
    label: str
    settings: Record
    messages: Callable[[Key], Chat]
    keep: Callable[[Key, Record], None]
    answered: bool = False
    _answers: list[Record] = field(default_factory=list)
    _refused: dict[Key, Record] = field(default_factory=dict)
    _in_a_row: set[Any] = field(default_factory=set)  # prompts
    _stop: Event = field(default_factory=Event)

    def make(self, chains: Sequence[Sequence[Key]], tokens: tuple[int, int]) -> None:
        """None; makes the calls of each chain one after the other, and the chains side by side.

        An estimate is printed and confirmed before the first call, the use after the last. After a
        fault or Ctrl-C, running calls are finished and no other is started. A prompt that is
        refused is kept as an empty answer if the endpoint answers others.

        Args:
            tokens: of all prompts, and the most that the answers may have.

        Raises:
            CourseError: the key is missing, `confirm` said no, or a call failed for good.
        """
        key = self.endpoint.key()
        count = sum(len(chain) for chain in chains)
        estimate = f"{count} calls to make; estimate: at most about {self._use(*tokens)}"
        print(f"{self.label}: {estimate}; repeats after errors are extra.", flush=True)
        if self.endpoint.confirm is not None and not self.endpoint.confirm(estimate):
            raise CourseError("Nothing was sent: the estimate was not agreed to.")
        client = make_client(self.endpoint, key)
        bar = progress_bar(total=count, desc=self.label, leave=False)
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
        for call in chain:
            if self._stop.is_set():
                return
            try:
                self._make_one(client, call)
            except BaseException:
                self._stop.set()
                raise
            bar.update()

    def _make_one(self, client: Any, call: Key) -> None:
        answer = self.ask(client, self.messages(call))
        if not answer["refusal"]:
            self.keep(call, answer)
            self._answers.append(answer)
            self._in_a_row.clear()
            return
        self._refused[call] = answer
        self._in_a_row.add(call[0])
        if len(self._in_a_row) > PATIENCE:
            raise CourseError(answer["refusal"])

    def _keep_refused(self) -> None:
        for call, answer in self._refused.items():
            if not self._answers and not self.answered:
                raise CourseError(answer["refusal"])
            self.keep(call, answer)
        if self._refused:
            words = answer["refusal"]
            print(f"{len(self._refused)} calls were refused, and count as failed: {words}")

    def ask(self, client: Any, messages: Chat) -> Record:
        """One call: what `read_reply` gives, repeats, and refusal ("" for an answer).

        A prompt that is refused gives an empty, unfinished answer; its refusal is the server's
        words where they do not say that a filter did it.
        """
        from openai import OpenAIError

        try:
            answer = client.chat.completions.with_raw_response.create(
                model=self.endpoint.model, messages=sendable(messages), **self.settings
            )
            reply = read_reply(answer.http_response.json())
            return {**reply, "repeats": answer.retries_taken, "refusal": ""}
        except OpenAIError as error:
            status, words = getattr(error, "status_code", None), str(error)
            fault = _fault(self.endpoint, error, client.api_key)
            refused = {"text": "", "finished": False, **dict.fromkeys(COUNTS, 0), "refusal": ""}
            if refused_by_filter(status, words):
                return refused
            if may_be_refused(status, words):
                return {**refused, "refusal": str(fault)}
            raise fault from None
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
        print(f"{self.label}: {len(answers)} calls used {use}.")
        if uncounted or repeats:
            print(f"{uncounted} calls came without a count; {repeats} repeats after errors.")


def make_client(endpoint: Endpoint, key: str) -> Any:
    """The library's client. It follows no redirect, and OpenAI alone gets OPENAI_ variables."""
    from openai import DefaultHttpxClient, OpenAI

    hidden = {}
    for name in list(os.environ):
        if name.startswith("OPENAI_") and name != "OPENAI_LOG" and not endpoint.of_openai:
            hidden[name] = os.environ.pop(name)
    hooks = {"response": [show_hidden_error]}
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


def _fault(endpoint: Endpoint, error: Exception, key: str) -> CourseError:
    """One sentence for a call that failed for good, without the key."""
    words = " ".join(printable(error).split())
    if key != NO_KEY:
        words = words.replace(key, "[key]")
    status = getattr(error, "status_code", None)
    hint = ""
    if status in (400, 422):
        ways = [way for word, way in HINTS.items() if word in words.lower()]
        hint = f"; try {ways[0]}" if ways else ""
    words = words[:200].rstrip(".")
    reasons = {  # some servers repeat parts of the key: their words are left out
        401: "401: the key was refused; name the variable of this endpoint's key",
        403: f"403: this key may not use {endpoint.model!r}, or the prompt was refused",
        404: f"404: no model {endpoint.model!r} at this address, which usually ends in /v1",
        None: f"{words}; does a server run there?",
    }
    reason = reasons.get(status, f"{type(error).__name__}, {words}{hint}")
    if status in range(300, 400):
        reason = f"{status}: it redirects; give the address that it redirects to"
    host = urlsplit(endpoint.base_url).netloc.rpartition("@")[2]
    return CourseError(
        f"{host} does not answer as asked, after the retries ({reason}). What was received is "
        "stored; the same call again makes the missing ones."
    )


def show_hidden_error(response: Any) -> None:
    """None; gives a reply of status 200 that holds an error the error's status.

    A hook of the client library, which then repeats the call or raises.
    """
    if response.status_code != 200:
        return
    response.read()
    try:
        body = response.json()
        error = body.get("error")
        choices = body.get("choices")
        if choices and isinstance(choices[0], dict) and not _has_text(choices[0]):
            error = error or choices[0].get("error")
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return
    if not error or (choices and _has_text(choices[0])):
        return
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isdecimal() and len(code) == 3:
        code = int(code)
    if not isinstance(code, int) or not 400 <= code < 600:
        code = 503 if _TEMPORARY.search(str(error)) else 400
    response.status_code = code


def _has_text(choice: Any) -> bool:
    return isinstance(choice, dict) and bool((choice.get("message") or {}).get("content"))


def read_reply(body: Any) -> dict[str, Any]:
    """Text, finished, prompt_tokens and completion_tokens (None: uncounted) of a reply.

    AttributeError, LookupError or TypeError: it is no chat completion.
    """
    choice = body["choices"][0]
    usage = body.get("usage")
    if not isinstance(usage, dict):
        usage = {}
    reason = choice.get("finish_reason")
    return {
        "text": whole_text(_text_of(choice["message"].get("content"))),
        "finished": not _CUT.search(str(reason)),
        "prompt_tokens": _count(usage.get("prompt_tokens")),
        "completion_tokens": _count(usage.get("completion_tokens")),
    }


def _text_of(content: Any) -> str:
    """The text of a message, which may be a list of parts, those with reasoning among them."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise TypeError(content)
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif not re.search("think|reason", str(part.get("type"))):
            text = part.get("text")
            if isinstance(text, dict):  # an assistant message's part
                text = text.get("value")
            if isinstance(text, str):
                texts.append(text)
    return "".join(texts)


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < MOST_COUNTED else None


def sendable(messages: Chat) -> Chat:
    """The messages in characters that can be sent."""
    return [{**message, "content": whole_text(message["content"])} for message in messages]


def refused_by_filter(status: int | None, words: str) -> bool:
    """Whether an error says that a filter refuses the prompt, whatever its status."""
    return status not in (None, 401, 404, 429) and bool(_FILTERED.search(words))


def may_be_refused(status: int | None, words: str) -> bool:
    """Whether an error may be about the prompt alone, and not about settings or money."""
    return status in (400, 403, 413, 422, 451) and not _UNPAID.search(words)
