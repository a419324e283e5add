"""A small HTTP server that speaks the completions protocols, in place of an endpoint or engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd

KEY = "sk-distinctive-4f1d9c07"
PROMPTS = pd.DataFrame(
    {
        "prompt_id": [f"p{i}" for i in range(5)],
        "prompt": ["Sea.", "A clock 🙂 stops", "Élodie — laughed", "x", "Nobody"],
    }
)
Answer = Callable[[dict[str, Any], int], tuple[int, Any]]


def completion(text: str | None, reason: str = "stop", usage: bool = True) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": reason, "message": message}
    reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    reply |= {"choices": [choice]}
    if usage:
        reply["usage"] = {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}
    return reply


def plain_completion(text: str, reason: str = "stop") -> dict[str, Any]:
    """A reply to a prompt without a chat."""
    reply = completion(None)
    reply["choices"] = [{"index": 0, "finish_reason": reason, "text": text}]
    return reply


def listed(base: str, *adapters: str, engine: str = "vllm", **paths: Path) -> list[dict[str, Any]]:
    """What an engine lists: its base model, and adapters, some with their paths."""
    models = [{"id": base, "object": "model", "owned_by": engine, "root": base, "parent": None}]
    for name in (*adapters, *paths):
        root = str(paths.get(name, "/elsewhere"))
        models.append({**models[0], "id": name, "root": root, "parent": base})
    return models


class Teller:
    """An HTTP server that answers completions by a function of the request and its number.

    `models` is what it lists.
    """

    def __init__(self) -> None:
        self.models: Any = []
        self.requests: list[dict[str, Any]] = []
        self.answer: Answer = lambda body, number: (200, completion(f"Story {number} 🙂"))
        teller = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet

            def do_GET(self) -> None:
                self.reply(200, {"object": "list", "data": teller.models})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body["authorization"] = self.headers["Authorization"]
                body["headers"] = str(self.headers)
                body["path"] = self.path
                with teller.lock:
                    number = len(teller.requests)
                    teller.requests.append(body)
                self.reply(*teller.answer(body, number))

            def reply(self, status: int, reply: Any) -> None:
                kind = "application/json"
                if isinstance(reply, str):
                    kind = "text/html"
                else:
                    reply = json.dumps(reply)
                data = reply.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
