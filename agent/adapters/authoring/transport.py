"""HTTP for authors: nothing waits for ever, what breaks off goes on, no secret travels too far.

In: a URL, and the headers that only its own host may see. Out: a short answer, whole and
bounded, or a long one piece by piece. A broken connection, a server that is overloaded and one
that has gone quiet are tried again, a long answer from where it stopped. Redirects are followed
by hand, so that a token stays with the host it is for and an encrypted request stays encrypted.
Messages name a URL without its query: where artifacts are kept, that is often a signature.

Uses requests, for its proxies, certificates and connection pools.
"""

import ipaddress
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from agent import __version__
from agent.core.authoring import AuthoringError

if TYPE_CHECKING:
    import requests

CHUNK_BYTES = 256 * 1024
PATIENT_BYTES = 4096  # waited for where an answer cannot be read as it comes
REDIRECTS_LIMIT = 5  # a registry, its storage, a mirror of it
CONNECTIONS = 8
MOVED = frozenset({301, 302, 303, 307, 308})
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
OK, PARTIAL = 200, 206


class BrokenError(Exception):
    """One attempt failed in a way that another may not; says how, without any URL.

    Attributes:
        after_s: how long the server asks to be left alone.
    """

    def __init__(self, words: str, *, after_s: float = 0.0) -> None:
        super().__init__(words)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        attempts: in a row without one new byte; then we give up.
        pause_s: before the second attempt; doubles from then on.
        longest_pause_s: whatever a server asks for in ``Retry-After``.
        connect_s: for a connection.
        silence_s: between two pieces of an answer, the first included.
        answer_s: for a short answer as a whole.
        slowest_bytes_s: least rate of a long answer, over ``silence_s``.
    """

    attempts: int = 5
    pause_s: float = 0.5
    longest_pause_s: float = 30.0
    connect_s: float = 10.0
    silence_s: float = 30.0
    answer_s: float = 60.0
    slowest_bytes_s: int = 512

    def pause_after_s(self, failed: int, asked_s: float = 0.0) -> float:
        """Return how long to wait before the next attempt.

        Args:
            failed: attempts that failed so far, 1 or more.
            asked_s: how long the server wants us to wait.
        """
        own_s: float = self.pause_s * 2 ** (failed - 1)
        return min(max(own_s, asked_s), self.longest_pause_s)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Attributes:
        url: where; ``https``, or ``http`` where that is allowed.
        method: ``GET`` or ``POST``.
        headers: for every host that a redirect leads to.
        secrets: headers for the host of ``url`` alone.
        json: body of a ``POST``, as JSON.
        form: body of a ``POST``, as a form.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    json: object = None
    form: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """A short answer, whole.

    Attributes:
        status: of HTTP.
        headers: names match whatever their case.
        body: bounded.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body has not been read yet."""

    url: str
    status: int
    headers: Mapping[str, str]
    patience: Patience
    _raw: Any = field(repr=False)

    @property
    def start(self) -> int:
        """Where in the whole the body begins.

        Raises:
            BrokenError: a part without a usable ``Content-Range``.
        """
        if self.status != PARTIAL:
            return 0
        unit, _, rest = self.headers.get("Content-Range", "").partition(" ")
        first = rest.partition("-")[0]
        if unit != "bytes" or not first.isdecimal():
            raise BrokenError("it sent a part without saying which")
        return int(first)

    @property
    def length(self) -> int | None:
        """How many bytes the body has; None when the server does not say."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isdecimal() else None

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes.

        Raises:
            BrokenError: it ended early, or comes too slowly.
        """
        pace, count = _Pace(self.patience), 0
        while chunk := self._read():
            count += len(chunk)
            pace.demand(count)
            yield chunk
        if self.length is not None and count < self.length:
            raise BrokenError(f"the connection closed after {count} of {self.length} bytes")

    def whole(self, limit: int) -> bytes:
        """Return a short body.

        Raises:
            AuthoringError: it is longer than ``limit`` bytes.
            BrokenError: it ended early, or took too long.
        """
        deadline, data = time.monotonic() + self.patience.answer_s, bytearray()
        for chunk in self.chunks():
            data += chunk
            if len(data) > limit:
                raise AuthoringError(
                    f"the answer of '{plain_url(self.url)}' is longer than {limit} bytes"
                )
            if time.monotonic() > deadline:
                raise BrokenError(f"no whole answer within {self.patience.answer_s:g} s")
        return bytes(data)

    def _read(self) -> bytes:
        """Read what is there: waiting for a full buffer would hide how slowly it fills."""
        read1 = getattr(self._raw, "read1", None)  # urllib3 1.26, Debian 12's, has none
        with _words_for_failures(self.patience):
            if read1 is None:
                return bytes(self._raw.read(PATIENT_BYTES, decode_content=False))
            return bytes(read1(CHUNK_BYTES, decode_content=False))


@dataclass(slots=True)
class _Pace:
    """Whether an answer comes fast enough, measured over one stretch of silence."""

    patience: Patience
    since: float = field(default_factory=time.monotonic)
    before: int = 0

    def demand(self, count: int) -> None:
        elapsed = time.monotonic() - self.since
        if elapsed < self.patience.silence_s:
            return
        if count - self.before < self.patience.slowest_bytes_s * elapsed:
            raise BrokenError(f"less than {self.patience.slowest_bytes_s} bytes came in a second")
        self.since, self.before = time.monotonic(), count


class Transport:
    """Speaks HTTP with every server of one command; usable from several threads."""

    def __init__(self, patience: Patience | None = None) -> None:
        import requests  # noqa: PLC0415  only who speaks with a server pays for it

        self.patience = patience or Patience()
        self._plain: set[str] = set()
        self._stopped = threading.Event()
        self._session = requests.Session()
        self._session.headers.clear()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def stop(self) -> None:
        """Let no other thread begin another attempt."""
        self._stopped.set()

    def pause(self, failed: int, asked_s: float = 0.0) -> None:
        """Wait before the next attempt; see `Patience.pause_after_s`.

        Raises:
            AuthoringError: after `stop`.
        """
        if self._stopped.wait(self.patience.pause_after_s(failed, asked_s)):
            raise AuthoringError("stopped, since something else failed")

    def allow_plain(self, host: str) -> None:
        """Speak with ``host`` (with its port, if any) without encryption, too."""
        self._plain.add(host)

    def allows_plain(self, host: str) -> bool:
        """Whether `allow_plain` was called for ``host``."""
        return host in self._plain

    def fetch(self, request: Request, *, limit: int) -> Answer:
        """Get a short answer, whatever its status.

        Args:
            request: what is asked; asked again when that may help.
            limit: largest body to accept, bytes.

        Raises:
            AuthoringError: there is no answer, or it is too long.
        """
        return self.whole(lambda: self.open(request), request.url, limit=limit)

    def whole(
        self, ask: Callable[[], AbstractContextManager[Reply]], url: str, *, limit: int
    ) -> Answer:
        """As `fetch`, of whatever ``ask`` opens; ``url`` is for messages."""
        for attempt in range(1, self.patience.attempts + 1):
            last = attempt == self.patience.attempts
            try:
                with ask() as reply:
                    answer = Answer(reply.status, reply.headers, reply.whole(limit))
                if answer.status not in TEMPORARY or last:
                    return answer
                self.pause(attempt, retry_after_s(answer.headers))
            except BrokenError as e:
                if last:
                    raise unreachable(url, str(e)) from e
                self.pause(attempt, e.after_s)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def open(self, request: Request) -> Iterator[Reply]:
        """Ask once, following redirects.

        Raises:
            AuthoringError: the URL, its certificate or a redirect is not to be trusted.
            BrokenError: there is no answer.
        """
        response = self._follow(request)
        try:
            yield Reply(
                request.url, response.status_code, response.headers, self.patience, response.raw
            )
        finally:
            response.close()

    def stream(
        self,
        open_at: Callable[[int], AbstractContextManager[Reply]],
        *,
        what: str,
        size: int,
        start: int = 0,
    ) -> Iterator[bytes]:
        """Yield a body of known length, asking for the rest whenever it breaks off.

        Args:
            open_at: asks for the body from an offset on; a server may answer with all of it.
            what: for messages.
            size: of the whole body, bytes.
            start: how much of it is not wanted, from its beginning.

        Raises:
            AuthoringError: it broke off too often, or is longer than ``size``.
        """
        done, failed = start, 0
        while done < size:
            try:
                with open_at(done) as reply:
                    for chunk in _rest(reply, done):
                        done, failed = done + len(chunk), 0
                        yield chunk
                if done < size:
                    raise BrokenError(f"it ended after {done} of {size} bytes")  # noqa: TRY301
            except BrokenError as e:
                failed += 1
                if failed == self.patience.attempts:
                    raise AuthoringError(
                        f"{what} broke off at byte {done} of {size}, {failed} times: {e}",
                        hint="repeat the command later: it goes on from there",
                    ) from e
                self.pause(failed, e.after_s)

    def _follow(self, request: Request) -> "requests.Response":
        url, secrets = request.url, dict(request.secrets)
        for _ in range(REDIRECTS_LIMIT + 1):
            self._demand_safe(url)
            response = self._ask(request, url, secrets)
            target = response.headers.get("Location", "")
            if response.status_code not in MOVED or not target:
                return response
            response.close()
            if request.method != "GET":
                raise AuthoringError(f"'{plain_url(url)}' sends a {request.method} elsewhere")
            after = _joined(url, target)
            self._demand_no_downgrade(url, after)
            if origin(after) != origin(request.url):
                secrets = {}
            url = after
        raise AuthoringError(f"'{plain_url(request.url)}' redirects without end")

    def _ask(self, request: Request, url: str, secrets: Mapping[str, str]) -> "requests.Response":
        import requests  # noqa: PLC0415

        headers = {
            "User-Agent": f"usb-update-agent/{__version__}",
            "Accept-Encoding": "identity",  # digests are of the bytes as they are kept
            **request.headers,
        }
        direct = {"http": "", "https": ""} if is_loopback(_host(url)) else {}
        with _words_for_failures(self.patience, url):
            prepared = self._session.prepare_request(
                requests.Request(
                    request.method,
                    url,
                    headers=headers,
                    json=request.json,
                    data=request.form,
                    # As `auth`, and never None: requests would look into ~/.netrc.
                    auth=_Secrets(secrets),
                )
            )
            settings = self._session.merge_environment_settings(
                url, direct, stream=True, verify=True, cert=None
            )
            # Not by the session, which reads the body of a redirect whole to see where it leads.
            return self._session.get_adapter(url).send(
                prepared,
                timeout=(self.patience.connect_s, self.patience.silence_s),
                stream=True,
                verify=settings["verify"] or True,
                cert=settings["cert"],
                proxies=settings["proxies"],
            )

    def _demand_safe(self, url: str) -> None:
        origin(url)
        parts = urlsplit(url)
        if parts.username is not None or not parts.hostname:
            raise AuthoringError(f"'{plain_url(url)}' is not a plain URL of a server")
        if parts.scheme == "https":
            return
        if parts.scheme != "http":
            raise AuthoringError(f"'{plain_url(url)}' has scheme {parts.scheme!r}; expected https")
        if not is_loopback(parts.hostname) and parts.netloc not in self._plain:
            raise AuthoringError(
                f"'{plain_url(url)}' is not encrypted",
                hint="use https; of an image registry in your own network, "
                "'--image registry+http:HOST' takes images without it",
            )

    def _demand_no_downgrade(self, before: str, after: str) -> None:
        if urlsplit(before).scheme == "https" and urlsplit(after).scheme != "https":
            raise AuthoringError(
                f"'{plain_url(before)}' redirects to '{plain_url(after)}', which is not encrypted"
            )


class _Secrets:
    """Sets headers that no message repeats."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: Any) -> Any:  # noqa: ANN401  requests' own prepared request
        request.headers.update(self._headers)
        return request


def _rest(reply: Reply, offset: int) -> Iterator[bytes]:
    """Yield a body from ``offset`` on, also when the server sent it from its beginning."""
    position = reply.start
    if position > offset:
        raise BrokenError(f"it went on at byte {position} instead of {offset}")
    for chunk in reply.chunks():
        fresh = chunk[max(offset - position, 0) :]
        position += len(chunk)
        if fresh:
            yield fresh


@contextmanager
def _words_for_failures(patience: Patience, url: str = "") -> Iterator[None]:
    """Turn the library's failures into ours: theirs repeat the URL with its query."""
    import requests  # noqa: PLC0415
    import urllib3  # noqa: PLC0415

    try:
        yield
    except requests.exceptions.SSLError as e:
        raise CertificateError(
            f"the certificate of '{_host(url)}' cannot be verified",
            hint="REQUESTS_CA_BUNDLE names a file with your own authorities",
        ) from e
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as e:
        raise AuthoringError(f"'{plain_url(url)}' is not a URL") from e
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as e:
        raise BrokenError(f"silence for {patience.silence_s:g} s") from e
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as e:
        raise BrokenError(_cause(e)) from e


class CertificateError(AuthoringError):
    """The other end did not prove who it is; nothing was sent to it."""


def _cause(error: BaseException) -> str:
    """Return the system's words for what is at the bottom of a library's exception."""
    seen: list[BaseException] = []
    pending: list[object] = [error]
    while pending:
        found = pending.pop()
        if isinstance(found, BaseException) and found not in seen:
            seen.append(found)
            pending += [*found.args, found.__cause__, found.__context__]
            pending.append(getattr(found, "reason", None))
    words = [e.strerror for e in seen if isinstance(e, OSError) and isinstance(e.strerror, str)]
    return words[-1] if words else "the connection broke"


def unreachable(url: str, why: str) -> AuthoringError:
    """Return the error for a server that does not answer."""
    return AuthoringError(
        f"'{plain_url(url)}' cannot be fetched: {why}",
        hint="is the network there, and the address right? HTTPS_PROXY names a proxy",
    )


def _joined(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError as e:
        raise AuthoringError(f"'{plain_url(url)}' redirects to what is not a URL") from e


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return how long a server asks to be left alone; 0 when it does not say in seconds."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0


def plain_url(url: str) -> str:
    """Return a URL for messages: without user, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "?"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port: whom a secret is for.

    Raises:
        AuthoringError: it is no URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise AuthoringError(f"'{plain_url(url)}' is not a URL") from e
    return parts.scheme, parts.hostname or "", port or (443 if parts.scheme == "https" else 80)


def is_loopback(host: str) -> bool:
    """Whether ``host``, without its port, is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
