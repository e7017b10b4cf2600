"""The bundle directory that is being made: looked at first, written content first, list last.

``bundle-targets.json`` appears only when everything it lists is there. Whoever pulls the
stick out earlier holds no bundle, or the one from before.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from agent.adapters import files
from agent.adapters.authoring import examine
from agent.adapters.authoring.claims import claimed
from agent.adapters.authoring.commits import Missing, OstreeCommits, free_bytes
from agent.adapters.authoring.contents import contents
from agent.adapters.authoring.store import AppStore, StorableApp
from agent.core.authoring import (
    BUNDLE_FILE,
    ROOT_FILE,
    SNAPSHOT_FILE,
    TARGETS_FILE,
    TIMESTAMP_FILE,
    AuthoringError,
)
from agent.core.difference import Contents
from agent.core.target import Target
from agent.ports import Progress

DOCUMENT_LIMIT_BYTES = 8 * 1024 * 1024  # the reference's bound for targets.json
FAT_FILE_LIMIT_BYTES = 2**32 - 1
FAT_TYPES = frozenset({"vfat", "msdos"})
SPARE_BYTES = 1024 * 1024  # metadata, directories
PARTS = ("tuf", "ostree_repo", "apps")
# Roots and roles first; the list of what may be installed comes last.
ORDER = (TARGETS_FILE, SNAPSHOT_FILE, TIMESTAMP_FILE, BUNDLE_FILE)
# `.NAME.part` while a blob is copied, `.NAME.XXXXXXXX` while a small file is written
_HALF_WRITTEN = re.compile(r"\..+\.(part|[a-z0-9_]{8})", re.ASCII)
MODE = 0o644
LOCK = ".lock"  # held while a bundle is written
UNFINISHED = ".unfinished"  # holds the name of the Target that is being made
NAME_LIMIT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class BundleDirectory:
    """A bundle, as its author sees it."""

    path: Path
    _missing: dict[str, Missing] = field(default_factory=dict, compare=False, repr=False)

    @property
    def repo(self) -> Path:
        """Its OSTree repository."""
        return self.path / "ostree_repo"

    @property
    def store(self) -> AppStore:
        """Its Apps."""
        return AppStore(self.path / "apps")

    def alone(self, act: str) -> AbstractContextManager[None]:
        """Keep everybody else from writing it, for the duration.

        Raises:
            AuthoringError: somebody else is at it, or the path is no directory.
        """
        self.occupied()
        return claimed(self.path, self.path / LOCK, act)

    def occupied(self) -> tuple[str, ...]:
        """Return which parts of a bundle are there already.

        Raises:
            AuthoringError: the path is no directory.
        """
        if self.path.exists() and not self.path.is_dir():
            raise AuthoringError(f"'{self.path}' is not a directory")
        return tuple(part for part in PARTS if (self.path / part).exists())

    def unfinished(self) -> str:
        """Return the Target whose making was interrupted; empty for none."""
        try:
            return files.read_bounded(self.path / UNFINISHED, limit=NAME_LIMIT_BYTES).decode()
        except (OSError, ValueError, files.NotRegularError, files.TooLargeError):
            return ""

    def begin(self, target: str) -> None:
        """Remember which Target is being made, until `publish`.

        Raises:
            AuthoringError: the destination cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            files.write_atomic(self.path / UNFINISHED, target.encode(), mode=MODE)
        except OSError as e:
            raise AuthoringError(
                f"'{self.path}' cannot be written: {files.why(e, self.path)}"
            ) from e

    def documents(self) -> dict[str, bytes]:
        """Return the metadata that is there, by file name.

        Raises:
            AuthoringError: a file cannot be read.
        """
        directory = self.path / "tuf"
        found: dict[str, bytes] = {}
        try:
            names = [p.name for p in directory.iterdir()] if directory.is_dir() else []
            for name in sorted(names):
                if name in ORDER or ROOT_FILE.fullmatch(name):
                    found[name] = files.read_bounded(directory / name, limit=DOCUMENT_LIMIT_BYTES)
        except (OSError, files.NotRegularError, files.TooLargeError) as e:
            raise AuthoringError(
                f"metadata in '{directory}' cannot be read: {files.why(e, directory)}"
            ) from e
        return found

    def demand_room(self, repo: Path, commit: str, apps: Sequence[StorableApp]) -> None:
        """Make sure that everything fits, before anything is written.

        Raises:
            AuthoringError: it does not, or a file is too large for the file system.
        """
        blobs = self.store.missing(apps)
        content = sum(blob.descriptor.size - self.store.begun(blob) for blob in blobs)
        views = sum(app.view_size for app in apps)
        missing = self._missing[commit] = OstreeCommits(repo).missing(commit, self.repo)
        rootfs = sum(size for _, size in missing)
        place = existing(self.path)
        needed, free = content + views + rootfs + SPARE_BYTES, free_bytes(place)
        if needed > free:
            raise AuthoringError(
                f"'{self.path}' needs about {_mib(needed)} MiB and has {_mib(free)} MiB free",
                hint="use a larger stick, or remove what else is on it",
            )
        largest = max(blobs, key=lambda blob: blob.descriptor.size, default=None)
        if largest and largest.descriptor.size > FAT_FILE_LIMIT_BYTES and is_fat(place):
            raise AuthoringError(
                f"blob {largest.descriptor.digest} has {largest.descriptor.size} bytes; FAT holds "
                f"files up to {FAT_FILE_LIMIT_BYTES}",
                hint="format the stick with exFAT or ext4",
            )

    def add_commit(self, repo: Path, commit: str, progress: Progress) -> None:
        """Copy a commit of the repository ``repo`` into the bundle's.

        Raises:
            AuthoringError: as `OstreeCommits.copy`.
        """
        missing = self._missing.pop(commit, None)
        OstreeCommits(repo).copy(commit, self.repo, progress, missing)

    def add_apps(self, apps: Sequence[StorableApp], progress: Progress) -> None:
        """Write Apps into the bundle's store.

        Raises:
            AuthoringError: a blob is damaged at its source, or cannot be written.
        """
        try:
            self.store.write(apps, progress)
        except OSError as e:
            raise AuthoringError(
                f"Apps cannot be written to '{self.path}': {files.why(e, self.path)}"
            ) from e

    def publish(self, documents: Mapping[str, bytes]) -> None:
        """Write metadata, each file whole, the bundle's list last.

        Raises:
            AuthoringError: the destination cannot be written.
        """
        directory = self.path / "tuf"
        roots = sorted(name for name in documents if name not in ORDER)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            for name in (*roots, *(name for name in ORDER if name in documents)):
                files.write_atomic(directory / name, documents[name], mode=MODE)
            files.remove_durably(self.path / UNFINISHED)
        except OSError as e:
            raise AuthoringError(
                f"metadata cannot be written to '{directory}': {files.why(e, directory)}"
            ) from e

    def _sweep(self) -> None:
        """Remove what an interrupted run left half written; nothing refers to it."""
        hidden = ((self.path / part).rglob(".*") for part in ("tuf", "apps"))
        for file in chain(self.path.glob(f".{UNFINISHED}.*"), *hidden):
            if _HALF_WRITTEN.fullmatch(file.name) and file.is_file():
                file.unlink()
        for left in (self.repo / "tmp").glob("*"):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()

    def strays(self) -> tuple[str, ...]:
        """Name files that do not belong where they are and may make a device refuse."""
        return examine.strays(self.path)

    def opened(self, progress: Progress) -> AbstractContextManager["BundleDirectory"]:
        """See `services.desk.BundleFiles`; it is, already."""
        del progress
        return nullcontext(self)

    def contents(self, target: Target) -> Contents:
        """Return what it holds of a Target.

        Raises:
            AuthoringError: something of the Target is not there.
        """
        return contents(self.path, target)

    def damaged(self, targets: Sequence[Target], progress: Progress) -> tuple[str, ...]:
        """Read all content and name what is missing or differs from its digest."""
        return examine.damaged(self.path, targets, progress)


def existing(path: Path) -> Path:
    """Return the path itself, or the nearest directory above that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def is_fat(path: Path) -> bool:
    """Whether the file system at ``path`` is FAT, by the longest mount point above it."""
    best = ("", "")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        place = re.sub(r"\\(\d{3})", lambda m: chr(int(m.group(1), 8)), before.split()[4])
        if path.resolve().is_relative_to(place) and len(place) >= len(best[0]):
            best = place, after.split()[0]
    return best[1] in FAT_TYPES


def _mib(size: int) -> int:
    return -(-size // (1024 * 1024))
