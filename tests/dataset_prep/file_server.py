"""A web server on this machine that sends one file, with the faults that its answers name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass(frozen=True)
class Answer:
    """How a request is answered.

    Attributes:
        version: the value of ``header``; empty for none.
        says_again: whether the answer to a range has that header, too.
        cut: how many bytes of the body are sent before the connection ends; None sends all.
        ranges: whether a range is sent where one is asked for.
        if_range: whether it is refused where the client knows another version.
        length: the Content-Length; None is the true one, and 0 sends none.
        chunked: whether the body comes in chunks, whose end says that it is whole.
        skips: by how many bytes a range begins too late.
    """

    content: bytes = b""
    version: str = '"1"'
    header: str = "ETag"
    says_again: bool = True
    cut: int | None = None
    ranges: bool = True
    if_range: bool = True
    status: int = 200
    kind: str = "application/octet-stream"
    length: int | None = None
    chunked: bool = False
    skips: int = 0


@dataclass
class Served:
    """What a server answers, and what was asked of it.

    Attributes:
        answers: how the next requests are answered; the last one answers all that follow.
        asked: of each request, the first byte that it asked for.
        sent: of each request that got a body, the first byte that was sent, and how many were.
    """

    address: str
    answers: list[Answer] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    sent: list[tuple[int, int]] = field(default_factory=list)

    def answering(self, *answers: Answer) -> None:
        self.answers, self.asked, self.sent = [*answers], [], []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def do_GET(self) -> None:
        answers = self.served.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.served.asked.append(int(asked[1]) if asked else 0)
        if answer.status >= 400:
            self.send_error(answer.status)
            return
        first, size = 0, len(answer.content)
        if asked and answer.ranges and (self.headers["If-Range"] == answer.version or not answer.if_range):
            first = int(asked[1]) + answer.skips
            if first >= size:
                self.send_error(416)
                return
        body = answer.content[first:]
        self._send_head(answer, first, len(body))
        self.served.sent.append((first, len(body[: answer.cut])))
        self._send_body(answer, body)

    def _send_head(self, answer: Answer, first: int, n: int) -> None:
        self.send_response(206 if first else 200)
        self.send_header("Content-Type", answer.kind)
        if answer.version and (answer.says_again or not first):
            self.send_header(answer.header, answer.version)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{first + n - 1}/{first + n}")
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.length != 0:
            self.send_header("Content-Length", str(n if answer.length is None else answer.length))
        self.end_headers()

    def _send_body(self, answer: Answer, body: bytes) -> None:
        part = body[: answer.cut]
        if answer.chunked:
            end = b"" if len(part) < len(body) else b"0\r\n\r\n"
            part = b"%x\r\n%b\r\n%b" % (len(part), part, end)
        with suppress(ConnectionError):  # the client may have left
            self.wfile.write(part)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def file_server() -> Iterator[Served]:
    """Yields what a server answers, which runs until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {}))
    served = server.RequestHandlerClass.served = Served(f"http://127.0.0.1:{server.server_port}/file")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
