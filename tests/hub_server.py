# SPDX-License-Identifier: Apache-2.0
"""A model hub on the loopback interface, as far as huggingface_hub asks of one."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = hashlib.sha1(b"the only commit").hexdigest()


@dataclass
class Hub:
    """What the server holds and does; tests change it between requests."""

    files: dict[str, bytes] = field(default_factory=dict)  # "org/name/file": content
    revisions: set[str] = field(default_factory=lambda: {"main", COMMIT})
    # What it answers in place of a file: an HTTP status, with X-Error-Code's word.
    refusal: tuple[int, str] | None = None
    wait: float = 0.0  # seconds before each answer
    cut: bool = False  # breaks off in the middle of a file
    asked: list[tuple[str, str]] = field(default_factory=list)  # (method, path)
    tokens: list[str | None] = field(default_factory=list)
    endpoint: str = ""

    def reset(self) -> None:
        """An empty hub that answers at once."""
        self.files.clear()
        self.asked.clear()
        self.tokens.clear()
        self.refusal, self.wait, self.cut = None, 0.0, False


def serve() -> tuple[Hub, ThreadingHTTPServer]:
    """Start a hub in a thread; the caller shuts the server down."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def refuse(self, status: int, word: str) -> None:
            self.send_response(status)
            if word:
                self.send_header("X-Error-Code", word)
            self.send_header("X-Error-Message", word or "refused")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            if "/resolve/" not in self.path:  # what a client asks of its own accord
                return self.refuse(404, "")
            hub.asked.append((self.command, self.path))
            hub.tokens.append(self.headers.get("authorization"))
            time.sleep(hub.wait)
            if hub.refusal:
                return self.refuse(*hub.refusal)
            repo, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            known = any(path.startswith(f"{repo}/") for path in hub.files)
            if not known:
                return self.refuse(401, "RepoNotFound")
            if revision not in hub.revisions:
                return self.refuse(404, "RevisionNotFound")
            content = hub.files.get(f"{repo}/{name}")
            if content is None:
                return self.refuse(404, "EntryNotFound")
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body and hub.cut:
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            elif body:
                self.wfile.write(content)
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return hub, server
