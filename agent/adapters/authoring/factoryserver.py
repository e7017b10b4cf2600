"""A factory's server, as ``fioctl`` speaks with it.

In: the server's address, a factory's name, a token. Out: what the server says, as bytes that
nobody has believed yet, and what it sends, checked against its digests. The token goes to this
server alone, also when a Target says that its Apps are elsewhere.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.adapters import files, shell
from agent.adapters.authoring.arrivals import StoreArchive, adopt_app, unpack_commit
from agent.adapters.authoring.downloads import Download, Downloads
from agent.adapters.authoring.store import PlannedApp
from agent.adapters.authoring.transport import OK, Answer, Request, Transport, origin, plain_url
from agent.core import factoryapi
from agent.core.authoring import AuthoringError
from agent.core.factoryapi import Branch
from agent.core.target import AppRef, Target
from agent.ports import Progress

TOKEN_HEADER = "OSF-TOKEN"  # noqa: S105  its name, not a token
TOKEN_LIMIT_BYTES = 16 * 1024
LIST_LIMIT_BYTES = 64 * 1024 * 1024  # a factory's whole list of CI Targets
DOCUMENT_LIMIT_BYTES = 8 * 1024 * 1024
ROOT_LIMIT_BYTES = 512 * 1024
OTHER_CACHE = "XDG_CACHE_HOME names another place for downloads"
BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 400, 401, 403, 404


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Which factory of which server, and where downloads are kept.

    Attributes:
        url: of the server; ``https``, or ``http`` on this machine.
        factory: its name.
        token_file: holds the token and nothing else.
        cache: directory for downloads; None for this user's.
    """

    url: str
    factory: str
    token_file: Path
    cache: Path | None = None


@contextmanager
def open_server(
    address: ServerAddress, transport: Transport | None = None
) -> Iterator["FactoryServer"]:
    """Open a server; nothing is asked yet.

    Raises:
        AuthoringError: the address or the token cannot be used.
    """
    scheme, host, _ = origin(address.url)
    if scheme not in ("https", "http") or not host or "?" in address.url:
        raise AuthoringError(
            f"'{plain_url(address.url)}' is not a server", hint="e.g. https://api.example.com"
        )
    if not factoryapi.FACTORY_NAME.fullmatch(address.factory):
        raise AuthoringError(f"{address.factory!r} is not a factory's name")
    token = _read_token(address.token_file)
    cache = _made(address.cache or _cache())
    carrier = transport or Transport()
    try:
        yield FactoryServer(address.url.rstrip("/"), address.factory, token, carrier, cache)
    finally:
        carrier.close()


def _made(cache: Path) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise AuthoringError(
            f"downloads cannot be kept in '{cache}': {files.why(e, cache)}", hint=OTHER_CACHE
        ) from e
    return cache


def _read_token(path: Path) -> str:
    try:
        token = files.read_bounded(path, limit=TOKEN_LIMIT_BYTES).decode("ascii").strip()
    except (OSError, files.NotRegularError, files.TooLargeError) as e:
        raise AuthoringError(f"the token file '{path}' cannot be read: {files.why(e, path)}") from e
    except UnicodeDecodeError:  # not chained: the exception holds the file's content
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise AuthoringError(
            f"'{path}' does not hold one token and nothing else",
            hint="the token needs the scopes targets:read and ci:read",
        )
    return token


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "usb-update"


class FactoryServer:
    """One factory of one server."""

    def __init__(
        self, url: str, factory: str, token: str, transport: Transport, cache: Path
    ) -> None:
        self._url = url
        self._factory = factory
        self._secrets = {TOKEN_HEADER: token}
        self._transport = transport
        self._cache = cache
        self._downloads = Downloads(cache, transport)

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return f"factory '{self._factory}' at '{plain_url(self._url)}'"

    def targets(self, branch: Branch) -> Mapping[str, Any]:
        """Return the Targets of a branch by name; nothing is verified.

        Raises:
            AuthoringError: the server does not say.
        """
        answer = self._fetch(factoryapi.list_path(self._factory, branch), LIST_LIMIT_BYTES)
        if answer.status == NOT_FOUND:
            raise AuthoringError(
                f"{self.label} has no Targets, {branch}",
                hint="is the factory's name right, and the tag or wave?",
            )
        return factoryapi.read_list(self._good(answer), branch)

    def root(self, version: int, branch: Branch) -> bytes | None:
        """Return a root as the server has it, None when there is none of this version.

        Raises:
            AuthoringError: the server does not say.
        """
        path = factoryapi.root_path(self._factory, version, branch)
        answer = self._fetch(path, ROOT_LIMIT_BYTES)
        return None if answer.status == NOT_FOUND else self._good(answer)

    def metadata(
        self, target: str, branch: Branch, *, days: int, listed: bytes | None, now: datetime
    ) -> dict[str, bytes]:
        """Have the server sign metadata for a bundle.

        Args:
            target: the Target's name.
            branch: where it is listed.
            days: how long the bundle shall last.
            listed: ``bundle-targets.json`` of the bundle it is added to.
            now: UTC.

        Returns:
            The four documents by file name.

        Raises:
            AuthoringError: the server refuses; the message has its sentence.
        """
        question = factoryapi.metadata_question(branch, days, listed)
        path = factoryapi.metadata_path(self._factory, target)
        request = Request(self._at(path), method="POST", secrets=self._secrets, json=question)
        answer = self._transport.fetch(request, limit=DOCUMENT_LIMIT_BYTES)
        if answer.status == BAD_REQUEST:
            sentence = factoryapi.complaint(answer.body)
            raise AuthoringError(
                f"the server does not sign a bundle for {days} days: {sentence or 'no reason'}",
                hint=factoryapi.expiry_hint(sentence, now),
            )
        return factoryapi.read_metadata(self._good(answer))

    @contextmanager
    def rootfs(self, target: Target, progress: Progress) -> Iterator[Path]:
        """Fetch a Target's OSTree repository: our own, with its objects, each one checked.

        Raises:
            AuthoringError: it cannot be had, is damaged, or lacks the Target's commit.
        """
        path = factoryapi.rootfs_path(self._factory, target)
        with self._download(path, "rootfs download", progress) as archive:
            if archive is None:
                raise AuthoringError(
                    f"{self.label} keeps no rootfs of '{target.name}'",
                    hint="builds are removed after a time; --ostree-repo takes it from a local "
                    "repository",
                )
            with _scratch(archive) as at:
                with _spoilt_by_failure(archive):
                    repo = unpack_commit(archive.path, target.commit, at, progress)
                yield repo
            archive.used()

    @contextmanager
    def apps(
        self, target: Target, apps: Sequence[AppRef], arch: str, progress: Progress
    ) -> Iterator[tuple[PlannedApp, ...]]:
        """Fetch a Target's Apps.

        Args:
            target: as its list has it.
            apps: which of its Apps.
            arch: which platform, where the archive has several of one image.
            progress: told how far it has come.

        Raises:
            AuthoringError: they cannot be had, or one is not as the Target says.
        """
        address = factoryapi.apps_address(self._factory, target, self._built(target))
        with self._download(address, "Apps download", progress) as archive:
            if archive is None:
                raise AuthoringError(
                    f"{self.label} keeps no Apps of '{target.name}', which has {len(apps)}",
                    hint="does the factory fetch Apps for bundles ('containers.offline')? "
                    "--no-apps makes a bundle of the rootfs alone",
                )
            with _scratch(archive) as at:
                with _spoilt_by_failure(archive):
                    store = StoreArchive(archive.path)
                    planned = tuple(adopt_app(app, store, at, arch=arch) for app in apps)
                yield planned
            archive.used()

    def _built(self, target: Target) -> Target:
        """Return CI's copy of a Target, where it matters: only it has the branch's own tag."""
        if factoryapi.names_its_apps(target):
            return target
        path = factoryapi.target_path(self._factory, target.name)
        return factoryapi.read_built(self._good(self._fetch(path, DOCUMENT_LIMIT_BYTES)), target)

    def _fetch(self, path: str, limit: int) -> Answer:
        request = Request(self._at(path), secrets=self._secrets)
        return self._transport.fetch(request, limit=limit)

    def _at(self, path: str) -> str:
        return f"{self._url}{path}"

    def _download(
        self, address: str, step: str, progress: Progress
    ) -> AbstractContextManager[Download | None]:
        url = self._at(address) if address.startswith("/") else address
        secrets = self._secrets if origin(url) == origin(self._url) else {}
        return self._downloads.get(Request(url, secrets=secrets), self._refusal, step, progress)

    def _good(self, answer: Answer) -> bytes:
        if answer.status != OK:
            raise self._refusal(answer)
        return answer.body

    def _refusal(self, answer: Answer) -> AuthoringError:
        words = factoryapi.complaint(answer.body)
        said = f": {words}" if words else ""
        if answer.status == UNAUTHORIZED:
            return AuthoringError(
                f"{self.label} does not accept the token{said}",
                hint="is it of this server, and still valid?",
            )
        if answer.status == FORBIDDEN:
            return AuthoringError(
                f"the token may not read this of {self.label}{said}",
                hint="it needs the scopes targets:read and ci:read",
            )
        return AuthoringError(f"{self.label} answers {answer.status}{said}")


@contextmanager
def _scratch(archive: Download) -> Iterator[Path]:
    """Make an empty directory beside a download; one that a killed command left is removed."""
    path = archive.path.with_suffix(".unpacked")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _spoilt_by_failure(archive: Download) -> Iterator[None]:
    """Keep no download that is not what it should be: the next attempt begins anew.

    That this machine cannot unpack it is not the download's fault.
    """
    try:
        yield
    except AuthoringError:
        archive.spoilt()
        raise
    except (OSError, shell.CommandError) as e:
        raise AuthoringError(
            f"a download cannot be unpacked in '{archive.path.parent}': "
            f"{files.why(e, archive.path.parent)}",
            hint=OTHER_CACHE,
        ) from e
