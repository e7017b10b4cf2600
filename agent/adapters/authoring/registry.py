"""Images in registries: asked over the network, each blob once, several at a time.

In: an image reference. Out: its manifest or index as the registry has it, and its blobs as
streams that go on where a connection broke. Manifests are believed when they have their digest;
where the registry is asked by tag, it decides which digest that is. A blob is a claim until
whoever writes it has hashed it: `store.AppStore` does, on the way.

Source: OCI distribution specification 1.1; "Token authentication specification" of
github.com/distribution/distribution.
"""

import base64
import hashlib
import io
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, Any
from urllib.parse import quote, urlencode

from agent.adapters.authoring.credentials import HUB, Credential, find_credential
from agent.adapters.authoring.meter import Crew
from agent.adapters.authoring.references import ImageRef
from agent.adapters.authoring.transport import (
    OK,
    PARTIAL,
    TEMPORARY,
    Answer,
    BrokenError,
    CertificateError,
    Reply,
    Request,
    Transport,
    is_loopback,
    retry_after_s,
)
from agent.core.authoring import AuthoringError, Descriptor

HUB_API = "registry-1.docker.io"
MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024  # registries refuse larger manifests
CONFIG_LIMIT_BYTES = 8 * 1024 * 1024
TOKEN_LIMIT_BYTES = 1024 * 1024
PARALLEL = 4  # more makes a stick slower than it makes the network faster
QUOTE_LIMIT = 200  # characters of a registry's complaint that a message repeats
CLIENT = "usb-update"

UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404
ACCEPT = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_PARAMETER = re.compile(r'([A-Za-z_]+)="([^"]*)"', re.ASCII)

CredentialOf = Callable[[str], Credential | None]
"""Returns who we are to a registry, by its host."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a blob is.

    Attributes:
        ref: whose image it belongs to, for its registry and repository.
        size: as the manifest that names it says, bytes.
        kind: ``manifests`` or ``blobs``, as in the registry's URLs.
        small: whether it is read into memory: manifests and configurations.
    """

    ref: ImageRef
    size: int
    kind: str
    small: bool


class RegistryImages:
    """Images of one registry, or of whichever registry a reference names."""

    def __init__(
        self,
        transport: Transport,
        host: str = "",
        *,
        alias: tuple[ImageRef, ImageRef] | None = None,
        credential_of: CredentialOf = find_credential,
    ) -> None:
        """Open nothing yet.

        Args:
            transport: closed by `close`.
            host: the only registry to ask; empty for every reference's own.
            alias: a reference, and the one to ask for in its stead.
            credential_of: who we are.
        """
        self.label = f"registry {host}" if host else "registries"
        self.crew = Crew(PARALLEL, transport.stop)
        self._transport = transport
        self._host = host
        self._alias = alias
        self._credential_of = credential_of
        self._registries: dict[str, _Registry] = {}
        self._places: dict[str, Place] = {}
        self._held: dict[str, bytes] = {}

    def resolve(self, ref: ImageRef) -> Descriptor | None:
        """See `ImageSource.resolve`."""
        asked = self._asked(ref)
        if asked is None:
            return None
        answer = self._registry(asked.domain).manifest(asked, asked.digest or asked.tag)
        if answer is None:
            return None
        said = answer.headers.get("Docker-Content-Digest", "")
        digest = _believed(asked, answer.body, asked.digest or said)
        self._places[digest] = Place(asked, len(answer.body), "manifests", small=True)
        self._hold(digest, answer.body)
        return Descriptor(_media_type(answer), digest, len(answer.body))

    def size(self, digest: str) -> int | None:
        """See `ImageSource.size`; known from the manifest that names the blob."""
        place = self._places.get(digest)
        return place.size if place else None

    def open(self, digest: str) -> AbstractContextManager[IO[bytes]]:
        """See `ImageSource.open`."""
        return self.open_from(digest, 0)

    @contextmanager
    def open_from(self, digest: str, start: int) -> Iterator[IO[bytes]]:
        """Open a blob behind its first ``start`` bytes, which are here already."""
        place = self._places[digest]
        if place.small:
            yield BytesIO(self._small(digest, place)[start:])
            return
        registry = self._registry(place.ref.domain)
        chunks = self._transport.stream(
            lambda offset: registry.blob(place.ref, digest, offset),
            what=f"blob {digest} of '{place.ref.repository}'",
            size=place.size,
            start=start,
        )
        with _Chunks(chunks) as raw, io.BufferedReader(raw) as stream:
            yield stream

    def names(self) -> Sequence[str]:
        """See `ImageSource.names`."""
        return [self._alias[0].tagged] if self._alias else ["whatever its repositories hold"]

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def _asked(self, ref: ImageRef) -> ImageRef | None:
        """Return what to ask for when ``ref`` is wanted; None for what is not ours."""
        if self._alias:
            wanted, stored = self._alias
            return stored if not ref.digest and ref.tagged == wanted.tagged else None
        return ref if not self._host or ref.domain == self._host else None

    def _registry(self, domain: str) -> "_Registry":
        if domain not in self._registries:
            self._registries[domain] = _Registry(self._transport, domain, self._credential_of)
        return self._registries[domain]

    def _small(self, digest: str, place: Place) -> bytes:
        if digest not in self._held:
            self._hold(digest, self._fetched(digest, place))
        return self._held[digest]

    def _fetched(self, digest: str, place: Place) -> bytes:
        registry = self._registry(place.ref.domain)
        if place.kind == "manifests":
            answer = registry.manifest(place.ref, digest)
        else:
            answer = registry.config(place.ref, digest)
        if answer is None:
            raise AuthoringError(
                f"'{place.ref.repository}' has no {digest}, though its index or manifest names it",
                hint="push the image again, for this platform too",
            )
        _believed(place.ref, answer.body, digest)
        return answer.body

    def _hold(self, digest: str, data: bytes) -> None:
        """Keep a small blob, and learn where those are that it names."""
        place = self._places[digest]
        self._held[digest] = data
        if place.kind == "manifests":
            for name, child in _children(data, place.ref):
                self._places.setdefault(name, child)


def _believed(ref: ImageRef, data: bytes, expected: str) -> str:
    """Return the digest of a manifest or configuration that is what its name says."""
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if expected.startswith("sha256:") and expected != found:
        raise AuthoringError(
            f"'{ref.repository}' was asked for {expected[:80]} and sent {found}",
            hint="something between here and the registry changes what it sends",
        )
    return found


def _media_type(answer: Answer) -> str:
    """Return what a manifest is: by its own word, else by the registry's."""
    table = _object(answer.body)
    return str(table.get("mediaType") or answer.headers.get("Content-Type", "").partition(";")[0])


def _children(data: bytes, ref: ImageRef) -> Iterator[tuple[str, Place]]:
    """Yield the blobs a manifest or index names; what is malformed is refused by its reader."""
    table = _object(data)
    named = (
        [(entry, "manifests", True) for entry in _list(table.get("manifests"))]
        + [(table.get("config"), "blobs", True)]
        + [(entry, "blobs", False) for entry in _list(table.get("layers"))]
    )
    for entry, kind, small in named:
        if not isinstance(entry, dict):
            continue
        digest, size = entry.get("digest"), entry.get("size")
        if isinstance(digest, str) and _DIGEST.fullmatch(digest) and type(size) is int:
            yield digest, Place(ref, size, kind, small)


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


class _Chunks(io.RawIOBase):
    """Pieces of a body as a stream to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        """See `io.IOBase.readable`."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  as the base class has it
        """See `io.RawIOBase.readinto`."""
        piece = self._left or next(self._chunks, b"")
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        self._left = piece[count:]
        return count

    def close(self) -> None:
        """Close the connection, too."""
        if not self.closed and hasattr(self._chunks, "close"):
            self._chunks.close()
        super().close()


# --- one registry ----------------------------------------------------------------------


@dataclass
class _Registry:
    """One registry, and what opens its repositories."""

    transport: Transport
    domain: str
    credential_of: CredentialOf
    _authorization: dict[str, str] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _base: str = ""

    def manifest(self, ref: ImageRef, name: str) -> Answer | None:
        """Return a manifest by tag or digest, None when there is none.

        Raises:
            AuthoringError: the registry refuses, or does not answer.
        """
        tail = f"manifests/{name}"
        return self._whole(ref, tail, MANIFEST_LIMIT_BYTES, accept=ACCEPT)

    def config(self, ref: ImageRef, digest: str) -> Answer | None:
        """Return a small blob, None when there is none.

        Raises:
            AuthoringError: the registry refuses, or does not answer.
        """
        return self._whole(ref, f"blobs/{digest}", CONFIG_LIMIT_BYTES)

    @contextmanager
    def blob(self, ref: ImageRef, digest: str, offset: int) -> Iterator[Reply]:
        """Open a blob from ``offset`` on; the registry may answer with all of it.

        Raises:
            AuthoringError: the registry refuses.
            BrokenError: another attempt may help.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._open(ref, f"blobs/{digest}", headers) as reply:
            if reply.status in TEMPORARY:
                raise BrokenError(f"status {reply.status}", after_s=retry_after_s(reply.headers))
            if reply.status not in (OK, PARTIAL):
                body = reply.whole(MANIFEST_LIMIT_BYTES)
                raise self._refusal(ref, Answer(reply.status, reply.headers, body))
            yield reply

    def _whole(self, ref: ImageRef, tail: str, limit: int, *, accept: str = "") -> Answer | None:
        headers = {"Accept": accept} if accept else {}

        def ask() -> AbstractContextManager[Reply]:
            return self._open(ref, tail, headers)

        answer = self.transport.whole(ask, self._url(ref, tail), limit=limit)
        if answer.status == NOT_FOUND:
            return None
        if answer.status != OK:
            raise self._refusal(ref, answer)
        return answer

    @contextmanager
    def _open(self, ref: ImageRef, tail: str, headers: Mapping[str, str]) -> Iterator[Reply]:
        """Ask, and when asked who we are, say so and ask again."""
        with ExitStack() as stack:
            used = self._authorization.get(ref.path, "")
            reply = stack.enter_context(self._ask(ref, tail, headers, used))
            challenge = reply.headers.get("WWW-Authenticate", "")
            if reply.status == UNAUTHORIZED and challenge:
                stack.close()
                fresh = self._authorize(ref, challenge, used)
                reply = stack.enter_context(self._ask(ref, tail, headers, fresh))
            yield reply

    def _ask(
        self, ref: ImageRef, tail: str, headers: Mapping[str, str], authorization: str
    ) -> AbstractContextManager[Reply]:
        secrets = {"Authorization": authorization} if authorization else {}
        return self.transport.open(Request(self._url(ref, tail), headers=headers, secrets=secrets))

    def _url(self, ref: ImageRef, tail: str) -> str:
        if not self._base:
            self._base = self._find_base()
        return f"{self._base}/v2/{quote(ref.path)}/{tail}"

    def _find_base(self) -> str:
        """Return where the API is; a registry on this machine may be one without encryption."""
        host = HUB_API if self.domain == HUB else self.domain
        if self.transport.allows_plain(host):
            return f"http://{host}"
        if not is_loopback(host.rpartition(":")[0] or host):
            return f"https://{host}"
        try:
            with self.transport.open(Request(f"https://{host}/v2/")):
                return f"https://{host}"
        except (BrokenError, CertificateError):
            return f"http://{host}"

    def _authorize(self, ref: ImageRef, challenge: str, used: str) -> str:
        """Return the header that answers a challenge; threads that meet it together share one."""
        with self._lock:
            if self._authorization.get(ref.path, "") == used:
                self._authorization[ref.path] = self._answer(ref, challenge)
            return self._authorization[ref.path]

    def _answer(self, ref: ImageRef, challenge: str) -> str:
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic":
            credential = self.credential_of(self.domain)
            if credential is None or not credential.basic:
                raise self._stranger(ref)
            return _basic(credential)
        if scheme.lower() != "bearer":
            raise AuthoringError(f"registry '{self.domain}' asks for {scheme[:20]!r}; unknown here")
        return f"Bearer {self._token(ref, dict(_PARAMETER.findall(rest)))}"

    def _token(self, ref: ImageRef, asked: Mapping[str, str]) -> str:
        credential = self.credential_of(self.domain)
        if credential and credential.bearer:
            return credential.bearer
        answer = self.transport.fetch(
            _token_request(asked, ref, credential), limit=TOKEN_LIMIT_BYTES
        )
        if answer.status in (UNAUTHORIZED, FORBIDDEN):
            raise self._stranger(ref)
        table = _object(answer.body)
        token = table.get("token") or table.get("access_token")
        if answer.status != OK or not isinstance(token, str) or not token.isprintable():
            raise AuthoringError(
                f"the token server of registry '{self.domain}' gave no token: "
                f"status {answer.status}{_complaint(answer.body)}"
            )
        return token

    def _refusal(self, ref: ImageRef, answer: Answer) -> AuthoringError:
        if answer.status in (UNAUTHORIZED, FORBIDDEN):
            return self._stranger(ref)
        return AuthoringError(
            f"registry '{self.domain}' answers {answer.status} for '{ref.path}'"
            f"{_complaint(answer.body)}"
        )

    def _stranger(self, ref: ImageRef) -> AuthoringError:
        known = self.credential_of(self.domain) is not None
        return AuthoringError(
            f"registry '{self.domain}' does not let us read '{ref.path}'"
            + (": what 'docker login' left is not accepted" if known else ": it asks who we are"),
            hint=f"'docker login {self.domain}'; some registries say the same of a repository that "
            "does not exist. A source that has the image goes before this one",
        )


def _token_request(
    asked: Mapping[str, str], ref: ImageRef, credential: Credential | None
) -> Request:
    realm = asked.get("realm", "")
    fields = {"scope": asked.get("scope") or f"repository:{ref.path}:pull"}
    if asked.get("service"):
        fields["service"] = asked["service"]
    if credential and credential.identity:
        form = {
            **fields,
            "grant_type": "refresh_token",
            "client_id": CLIENT,
            "refresh_token": credential.identity,
        }
        return Request(realm, method="POST", form=form)
    secrets = {"Authorization": _basic(credential)} if credential else {}
    separator = "&" if "?" in realm else "?"
    return Request(f"{realm}{separator}{urlencode(fields)}", secrets=secrets)


def _basic(credential: Credential) -> str:
    return "Basic " + base64.b64encode(credential.basic.encode()).decode()


def _complaint(body: bytes) -> str:
    """Return a registry's own words, for the end of a message."""
    errors = _list(_object(body).get("errors"))
    words = [str(e.get("message", "")) for e in errors if isinstance(e, dict)]
    text = "".join(c for c in "; ".join(filter(None, words)) if c.isprintable())
    return f": {text[:QUOTE_LIMIT]}" if text else ""
