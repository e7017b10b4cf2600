"""Large files of a server, kept until they were used: a command that is repeated goes on.

In: where a file is. Out: the whole file on this machine's disk. Whether it is the right one is
for whoever opens it, who says `Download.spoilt` if not. Beside each file lies what the server
called this version of it; without such a name, only the command that began goes on.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from agent.adapters import files
from agent.adapters.authoring.commits import free_bytes
from agent.adapters.authoring.transport import (
    OK,
    PARTIAL,
    TEMPORARY,
    Answer,
    BrokenError,
    Reply,
    Request,
    Transport,
    plain_url,
    retry_after_s,
)
from agent.core.authoring import AuthoringError
from agent.ports import Progress

NOTE_LIMIT_BYTES = 4096
REFUSAL_LIMIT_BYTES = 1024 * 1024
NAME_CHARACTERS = 24  # of the digest of a URL: enough to tell files apart
SPARE_BYTES = 16 * 1024 * 1024  # left free on the disk
NOT_FOUND, UNSATISFIABLE = 404, 416

Refusal = Callable[[Answer], Exception]
"""Puts a server's refusal into words."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file that came whole."""

    path: Path

    def used(self) -> None:
        """Remove it: what was in it is where it belongs."""
        self.path.unlink(missing_ok=True)
        _note_of(self.path).unlink(missing_ok=True)

    def spoilt(self) -> None:
        """Remove it: it is not what it should be, and the next attempt begins anew."""
        self.used()


class Downloads:
    """A directory of files on their way."""

    def __init__(self, directory: Path, transport: Transport) -> None:
        self._directory = directory
        self._transport = transport

    @contextmanager
    def get(
        self, request: Request, refusal: Refusal, step: str, progress: Progress
    ) -> Iterator[Download | None]:
        """Fetch a file, or what of it is not here yet.

        Args:
            request: asks for it.
            refusal: what to raise when the server says no.
            step: for ``progress``.
            progress: told how far it has come.

        Yields:
            The file, nobody else's meanwhile; None when the server has none.

        Raises:
            AuthoringError: it cannot be had now. What came is kept.
        """
        name = hashlib.sha256(plain_url(request.url).encode()).hexdigest()[:NAME_CHARACTERS]
        path = self._directory / name
        try:
            with files.locked(path.with_suffix(".lock")):
                yield self._complete(request, path, refusal, lambda d, t: progress(step, d, t))
        except BlockingIOError as e:
            raise AuthoringError(
                f"another command is downloading '{plain_url(request.url)}'"
            ) from e

    def _complete(
        self, request: Request, path: Path, refusal: Refusal, tell: Callable[[int, int], None]
    ) -> Download | None:
        failed = 0
        if not _read_note(path).get("version"):
            path.unlink(missing_ok=True)  # nobody knows of which version it was the beginning
        while True:
            before = _size(path)
            try:
                whole = self._attempt(request, path, refusal, tell)
            except BrokenError as e:
                failed = 1 if _size(path) > before else failed + 1
                if failed == self._transport.patience.attempts:
                    raise AuthoringError(
                        f"'{plain_url(request.url)}' broke off at byte {_size(path)}: {e}",
                        hint="repeat the command later: it goes on from there",
                    ) from e
                self._transport.pause(failed, e.after_s)
            except OSError as e:
                raise AuthoringError(
                    f"a download cannot be written to '{path}': {files.why(e, path)}"
                ) from e
            else:
                return Download(path) if whole else None

    def _attempt(
        self, request: Request, path: Path, refusal: Refusal, tell: Callable[[int, int], None]
    ) -> bool:
        """Ask for the rest and append it; says whether the server has such a file."""
        here = _size(path)
        with self._transport.open(_rest_of(request, path, here)) as reply:
            if reply.status == NOT_FOUND:
                return False
            if reply.status == UNSATISFIABLE and here:
                return self._is_all(reply, path, here)
            if reply.status in TEMPORARY:
                raise BrokenError(f"status {reply.status}", after_s=retry_after_s(reply.headers))
            if reply.status not in (OK, PARTIAL):
                raise refusal(Answer(reply.status, reply.headers, reply.whole(REFUSAL_LIMIT_BYTES)))
            self._append(reply, path, here, tell)
        return True

    def _is_all(self, reply: Reply, path: Path, here: int) -> bool:
        """Take the server's word that nothing follows, when it means a file of this length."""
        if reply.headers.get("Content-Range", "") != f"bytes */{here}":
            path.unlink()
            raise BrokenError("what is here is not the beginning of what the server has")
        return True

    def _append(
        self, reply: Reply, path: Path, here: int, tell: Callable[[int, int], None]
    ) -> None:
        start = reply.start
        if start not in (0, here):
            raise BrokenError(f"it went on at byte {start} instead of {here}")
        total = start + (reply.length or 0)
        _demand_room(path, total - start)
        _write_note(path, reply.headers)
        # A server that sends the whole has another version now, or knows no ranges.
        with path.open("ab" if start else "wb") as file:
            self._write(reply, file, start, lambda done: tell(done, total))

    def _write(self, reply: Reply, file: IO[bytes], done: int, tell: Callable[[int], None]) -> None:
        for chunk in reply.chunks():
            file.write(chunk)
            done += len(chunk)
            tell(done)


def _rest_of(request: Request, path: Path, here: int) -> Request:
    if not here:
        return request
    version = str(_read_note(path).get("version", ""))
    headers = {"Range": f"bytes={here}-", **({"If-Range": version} if version else {})}
    return replace(request, headers={**request.headers, **headers})


def _write_note(path: Path, headers: Mapping[str, str]) -> None:
    tag = headers.get("ETag", "")
    strong = "" if tag.startswith("W/") else tag  # a weak one does not promise the same bytes
    version = strong or headers.get("Last-Modified", "")
    data = json.dumps({"version": version}).encode()
    files.write_atomic(_note_of(path), data[:NOTE_LIMIT_BYTES])


def _read_note(path: Path) -> Mapping[str, object]:
    try:
        value = json.loads(files.read_bounded(_note_of(path), limit=NOTE_LIMIT_BYTES))
    except (OSError, ValueError, files.NotRegularError, files.TooLargeError):
        return {}
    return value if isinstance(value, dict) else {}


def _note_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _demand_room(path: Path, needed: int) -> None:
    free = free_bytes(path.parent)
    if needed + SPARE_BYTES > free:
        raise AuthoringError(
            f"a download of {needed} bytes needs more than '{path.parent}' has free ({free} bytes)",
            hint="XDG_CACHE_HOME names another place for downloads",
        )
