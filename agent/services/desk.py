"""An author's desk: every port that making and examining bundles needs.

The desk side of `station.Station`. `bundle` and `keys` open things by path, since one
command may touch several.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from agent.core.appfiles import AppSource
from agent.core.authoring import ChainKeys, IssuedVersions, OnlineKeys
from agent.core.bundletype import BundleType
from agent.core.difference import Contents
from agent.core.keys import PrivateKey
from agent.core.target import AppRef, Target
from agent.ports import Medium, Progress
from agent.services.station import no_progress


class NewApp(Protocol):
    """An App that was read and pinned, and is not in the bundle yet."""

    @property
    def ref(self) -> AppRef:
        """Its name and pinned URI."""

    @property
    def archs(self) -> frozenset[str]:
        """Architectures of its images."""


class Commits(Protocol):
    """A local OSTree repository."""

    def resolve(self, ref: str) -> str:
        """Return the commit a ref or commit names, 64 hex digits.

        Raises:
            AuthoringError: there is none.
        """


class Revision(Protocol):
    """One commit of a git repository on this machine."""

    @property
    def commit(self) -> str:
        """Its name, 40 hex digits."""

    @property
    def branch(self) -> str:
        """The branch that named it, as ``refs/heads/<name>``; else empty."""

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file at its top, None when there is none.

        Raises:
            AuthoringError: it is longer than ``limit`` bytes, or cannot be read.
        """

    def apps(
        self,
        *,
        spell: Callable[[str], str],
        submodules: Mapping[str, Path],
        compose_files: Sequence[str],
    ) -> tuple[AppSource, ...]:
        """Return its Compose Apps, found as a factory's CI finds them.

        Args:
            spell: which image a reference of their compose files means.
            submodules: clones of submodules by their path.
            compose_files: those that CI would merge, where an App has them.

        Raises:
            AuthoringError: a directory cannot be used as an App.
        """

    def document(self, name: str, limit: int) -> object:
        """Return the values of a YAML file; None when there is none, or nothing in it.

        Raises:
            AuthoringError: it is not YAML, or longer than ``limit`` bytes.
        """


class FactoryKeys(Protocol):
    """A directory with a factory's keys, root chains and version counter."""

    def create(self, chain: ChainKeys, roots: Mapping[BundleType, Sequence[bytes]]) -> None:
        """Write a new factory; never over an old one."""

    def roots(self, bundle_type: BundleType) -> dict[str, bytes]:
        """Return ``N.root.json`` to bytes, from version 1 to the latest."""

    def online(self) -> OnlineKeys:
        """Return the keys that sign without a person."""

    def versions(self) -> IssuedVersions:
        """Return the versions issued so far.

        Raises:
            AuthoringError: the counter is lost; no version may be taken then.
        """

    def reserve_version(self, bundle_type: BundleType, above: int, request: str = "") -> int:
        """Take the next metadata version, durably; only the same request gets it again."""


class BundleFiles(Protocol):
    """A bundle directory, as its author writes it."""

    @property
    def path(self) -> Path:
        """Where it is."""

    def alone(self, act: str) -> AbstractContextManager[None]:
        """Keep everybody else from writing it, for the duration.

        Raises:
            AuthoringError: somebody else is at it; nothing was changed.
        """

    def occupied(self) -> tuple[str, ...]:
        """Return which parts of a bundle are there already."""

    def unfinished(self) -> str:
        """Return the Target whose making was interrupted; empty for none."""

    def begin(self, target: str) -> None:
        """Remember which Target is being made, until `publish`."""

    def documents(self) -> dict[str, bytes]:
        """Return the metadata that is there, by file name."""

    # Apps go from `Desk.plan_apps` to here unopened: what they are is their adapter's affair.

    def demand_room(self, repo: Path, commit: str, apps: Sequence[Any]) -> None:
        """Make sure that everything fits, before anything is written."""

    def add_commit(self, repo: Path, commit: str, progress: Progress) -> None:
        """Copy a commit of the repository ``repo`` into the bundle's."""

    def add_apps(self, apps: Sequence[Any], progress: Progress) -> None:
        """Write Apps into the bundle's store; what is there is not read again."""

    def publish(self, documents: Mapping[str, bytes]) -> None:
        """Write metadata, each file whole, the bundle's list last."""

    def strays(self) -> tuple[str, ...]:
        """Name files that do not belong where they are and may make a device refuse."""

    def opened(self, progress: Progress) -> AbstractContextManager["BundleFiles"]:
        """Keep all that it holds at hand as files, for the duration.

        Raises:
            AuthoringError, BundleError: it cannot be.
        """

    def contents(self, target: Target) -> Contents:
        """Return what it holds of a Target, measured and not believed.

        Raises:
            AuthoringError: something of the Target is not there.
        """

    def damaged(self, targets: Sequence[Target], progress: Progress) -> tuple[str, ...]:
        """Read all content and name what is missing or differs from its digest."""


Warn = Callable[[str, str], None]
"""Tells a person what may go wrong, and what to do about it."""


def no_warning(_message: str, _hint: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Every port of an author."""

    keys: Callable[[Path], FactoryKeys]
    read_archive: Callable[[Path], tuple[PrivateKey, ...]]
    bundle: Callable[[Path], BundleFiles]
    commits: Callable[[Path], Commits]
    plan_apps: Callable[
        [Sequence[Path | AppSource], Sequence[str], str, str],
        AbstractContextManager[tuple[NewApp, ...]],
    ]
    medium: Callable[[Path], Medium]
    roots: Callable[[Path, BundleType | None], tuple[tuple[int, bytes], ...]]
    now: Callable[[], datetime]
    revision: Callable[[str], Revision]
    progress: Progress = no_progress
    warn: Warn = no_warning
