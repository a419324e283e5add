"""A small proxy that puts faults between a client and an HTTP server, and counts paid answers."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

REFUSALS = {
    "429": b"HTTP/1.1 429 Too Many Requests\r\n",
    "429 retry-after": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\n",
    "500": b"HTTP/1.1 500 Internal Server Error\r\n",
    "redirect": b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /v1/elsewhere\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\n",
}


class FlakyProxy:
    """Forwards requests to `upstream`; the n-th POST meets the n-th of `faults`.

    Faults: those of REFUSALS, "hang" (never answers) and "drop" (closes before it answers) never
    reach the server; "cut": the server answers, which it may charge for, and the connection breaks
    in the middle of the body.

    Attributes:
        met: how often each fault was met; None counts requests that met none.
        answered: answers of status 200 that the server gave to POST requests.
        delivered: the bodies that went out whole.
        busiest: most requests at the server at once.
        headers: of each request, as bytes.
    """

    def __init__(self, upstream: str, faults: Iterable[str | None] = ()):
        where = urlsplit(upstream)
        self.host, self.port, self.path = where.hostname, where.port, where.path
        self.faults = list(faults)
        self.met: Counter[str | None] = Counter()
        self.answered, self.open, self.busiest = 0, 0, 0
        self.delivered: list[dict[str, Any]] = []
        self.headers: list[bytes] = []
        self._hung: list[asyncio.StreamWriter] = []

    def __enter__(self) -> FlakyProxy:
        ready = threading.Event()

        def serve() -> None:
            asyncio.run(self._serve(ready))

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{self.path}"
        ready.set()
        await self._end.wait()
        server.close()
        for writer in self._hung:
            writer.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head.lower())
            body = await reader.readexactly(int(length[1]) if length else 0)
            self.headers.append(head)
            fault = self.faults.pop(0) if self.faults and head.startswith(b"POST") else None
            self.met[fault] += 1
            if fault == "hang":
                self._hung.append(writer)  # and its connection stays open
                return
            if fault in REFUSALS:
                writer.write(REFUSALS[fault] + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")
            elif fault != "drop":
                await self._forward(head, body, writer, cut=fault == "cut")
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client is gone, as after a kill
        writer.close()

    async def _forward(
        self, head: bytes, body: bytes, writer: asyncio.StreamWriter, cut: bool
    ) -> None:
        self.open += 1
        self.busiest = max(self.busiest, self.open)
        try:
            source, sink = await asyncio.open_connection(self.host, self.port)
            head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"\r\nConnection: close", head)
            sink.write(head + body)
            answer = await source.read()
            sink.close()
        finally:
            self.open -= 1
        start = answer.index(b"\r\n\r\n") + 4
        good = head.startswith(b"POST") and answer.startswith(b"HTTP/1.1 200")
        self.answered += good
        writer.write(answer[: (start + len(answer)) // 2] if cut else answer)
        await writer.drain()
        if good and not cut and not writer.is_closing():
            self.delivered.append(json.loads(answer[start:]))
