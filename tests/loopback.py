"""An HTTP server on this machine that behaves, and misbehaves when told to.

`Loopback` answers with what a function returns and keeps a list of who asked for what. `Fault`
says what goes wrong, where, and how often: a dropped connection, a body that ends early, an
error, wrong bytes, silence. What a range request asks for is cut out here, as servers of
artifacts do.
"""

import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

TRICKLE_S = 0.02  # between two bytes: never silent, and never done


@dataclass(frozen=True)
class Ask:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = b""


@dataclass(frozen=True)
class Said:
    """One answer."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


NOT_FOUND = Said(b'{"message":"not found"}', 404)


@dataclass
class Fault:
    """What goes wrong with requests whose method and path match.

    Attributes:
        where: searched in ``METHOD path``.
        times: how often; then all is well.
        drop: no answer at all.
        said: this answer instead.
        cut: so many bytes of the body, then the connection closes.
        stall: so many bytes of the body, then nothing until the server stops.
        trickle: so many bytes of the body, then one at a time.
        garble: the body's last byte is another.
    """

    where: str
    times: int = 1
    drop: bool = False
    said: Said | None = None
    cut: int | None = None
    stall: int | None = None
    trickle: int | None = None
    garble: bool = False


class Loopback:
    """Serves on a free port until it is closed."""

    def __init__(
        self, answer: Callable[[Ask], Said], *, ranges: bool = True, pem: Path | None = None
    ) -> None:
        """Take a port.

        Args:
            answer: what to say.
            ranges: whether to cut out what range requests ask for.
            pem: key and certificate; encrypts.
        """
        self.scheme = "https" if pem else "http"
        self.answer = answer
        self.ranges = ranges
        self.faults: list[Fault] = []
        self.asked: list[Ask] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(self)
        if pem:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem)
            plain = self._server.socket
            self._server.socket = context.wrap_socket(plain, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def asked_for(self, text: str) -> list[Ask]:
        return [ask for ask in self.asked if text in ask.path]

    def fault_for(self, ask: Ask) -> Fault | None:
        with self._lock:
            self.asked.append(ask)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.where, f"{ask.method} {ask.path}"):
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that `server_close` waits for them

    def __init__(self, loopback: "Loopback") -> None:
        self.loopback = loopback
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: that the other end hangs up is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # one request per connection: nothing waits at the end
    server: _Server

    def do_GET(self) -> None:
        self._serve(self.server.loopback)

    def do_POST(self) -> None:
        self._serve(self.server.loopback)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self, loopback: "Loopback") -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        ask = Ask(self.command, self.path, dict(self.headers.items()), body)
        fault = loopback.fault_for(ask) or Fault("", times=0)
        if fault.drop:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        said = fault.said or loopback.answer(ask)
        self._say(_part(ask, said) if loopback.ranges and said.status == 200 else said, fault)
        if fault.stall is not None:
            loopback.closing.wait(30)

    def _say(self, said: Said, fault: Fault) -> None:
        body = said.body
        if fault.garble:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(said.status)
        own = {} if "Transfer-Encoding" in said.headers else {"Content-Length": str(len(body))}
        for name, value in {**own, **said.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        bounds = (fault.cut, fault.stall, fault.trickle, len(body))
        end = min(n for n in bounds if n is not None)
        self.wfile.write(body[:end])
        self.wfile.flush()
        if fault.trickle is not None:
            self._trickle(body[end:])

    def _trickle(self, body: bytes) -> None:
        for n in range(len(body)):
            if self.server.loopback.closing.wait(TRICKLE_S):
                return
            self.wfile.write(body[n : n + 1])
            self.wfile.flush()


def _part(ask: Ask, said: Said) -> Said:
    """Cut out what a range request asks for."""
    wanted = re.fullmatch(r"bytes=(\d+)-", ask.headers.get("Range", ""))
    same = ask.headers.get("If-Range", said.headers.get("ETag")) == said.headers.get("ETag")
    if not wanted or not same:
        return said
    start, total = int(wanted.group(1)), len(said.body)
    if start >= total:
        return Said(b"", 416, {"Content-Range": f"bytes */{total}"})
    headers = {**said.headers, "Content-Range": f"bytes {start}-{total - 1}/{total}"}
    return Said(said.body[start:], 206, headers)


def forward_to(host: str) -> Callable[[Ask], Said]:
    """Return an answer that is another server's."""

    def answer(ask: Ask) -> Said:
        connection = http.client.HTTPConnection(host, timeout=30)
        try:
            headers = {k: v for k, v in ask.headers.items() if k.lower() != "connection"}
            connection.request(ask.method, ask.path, ask.body, headers)
            got = connection.getresponse()
            body = got.read()
            kept = {k: v for k, v in got.getheaders() if k.lower() in KEPT}
            return Said(body, got.status, kept)
        finally:
            connection.close()

    return answer


KEPT = frozenset(
    {"content-type", "content-range", "docker-content-digest", "etag", "www-authenticate"}
)
