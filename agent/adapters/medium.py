"""A bundle on a stick, and which bundles a stick holds. Nothing here is believed.

In: a directory somebody else filled. Out: bytes, read once, with bounds; and claims about
content, which only a digest will prove. Links are refused everywhere below the bundle's
own directory, and so is everything that is no regular file.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import files, packfile, sticktree
from agent.core.bundle import Inventory, RawBundle, SealedImage
from agent.core.errors import (
    BundleMetadataInvalidError,
    MetadataInvalidError,
    MetadataNotFoundError,
    PullError,
)
from agent.core.target import Target
from agent.core.verify import BUNDLE_FILE, limit_of
from agent.log import get_logger
from agent.ports import Progress

log = get_logger()

METADATA_LIMIT_BYTES = 32 * 1024 * 1024  # all documents together: they are held in memory
ROOTS_LIMIT = 1000  # a root chain that is rotated every month for 80 years
TUF_ENTRIES_LIMIT = 10_000  # entries in `tuf`, junk included
STORE_ENTRIES_LIMIT = 20_000  # entries looked at in `apps/apps`
URI_LIMIT_BYTES = 1024  # a URI has about 120
SEARCH_ENTRIES_LIMIT = 50_000  # entries looked at when bundles are searched
SEARCH_TIME_S = 20.0  # a slow USB 1 stick lists about 5 000 entries in a second
SEARCH_DEPTH = 2
PACKS_LIMIT = 32  # on one stick; each one's header is read and judged
# What systems leave on sticks, our own results, and what a bundle consists of.
SKIPPED = frozenset(
    {"system volume information", "$recycle.bin", "recycler", "lost+found", "usb-update-results"}
)
BUNDLE_PARTS = frozenset({"tuf", "ostree_repo", "apps"})
NOT_PLAIN = (
    files.NotRegularError,
    files.TooLargeError,
    sticktree.NotPlainError,
    sticktree.TooMuchError,
)
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class DirectoryMedium:
    """The `Medium` port on a directory.

    Attributes:
        path: the bundle's directory; the caller chose it, so it may be reached by links.
    """

    path: Path

    @property
    def ostree_repo(self) -> Path:
        """Directory of the bundle's OSTree repository; it need not exist."""
        return self.path / "ostree_repo"

    @property
    def apps(self) -> Path:
        """Directory of the bundle's App store; it need not exist."""
        return self.path / "apps"

    def read(self) -> RawBundle:
        """Read every metadata file once, bounded, links and special files refused.

        Raises:
            MetadataInvalidError, BundleMetadataInvalidError: a file is not a bounded
                regular file, or there are too many.
            MetadataNotFoundError: there is no ``tuf`` directory.
        """
        tuf = self.path / "tuf"
        try:
            with sticktree.open_directory(tuf) as fd:
                return RawBundle(_documents(fd, _metadata_names(fd, tuf), tuf), str(self.path))
        except (FileNotFoundError, sticktree.NotPlainError) as e:
            raise MetadataNotFoundError(
                f"there is no directory '{tuf}'", hint="name the directory that holds 'tuf'"
            ) from e
        except OSError as e:
            raise MetadataInvalidError(f"'{tuf}' cannot be read: {e.strerror}") from e

    def inventory(self, targets: Sequence[Target]) -> Inventory:
        """Which of these Targets' commits and App URIs the medium claims to carry.

        What is not as it should be is not there; the log says so.

        Raises:
            PullError: the medium cannot be read, perhaps because it was pulled out.
        """
        commits = {target.commit for target in targets}
        uris = frozenset(app.uri for target in targets for app in target.apps)
        return Inventory(
            commits=frozenset(filter(self._has_commit, commits)),
            app_uris=frozenset(self._found(uris)) if uris else frozenset(),
        )

    def opened(
        self, image: SealedImage | None, progress: Progress
    ) -> AbstractContextManager["DirectoryMedium"]:
        """See `ports.Medium`: it is open already."""
        del image, progress
        return nullcontext(self)

    def _has_commit(self, commit: str) -> bool:
        parts = (self.ostree_repo, "objects", commit[:2])
        with (
            suppress(*NOT_PLAIN),
            _reading(self.ostree_repo),
            sticktree.open_directories(*parts) as fd,
        ):
            found = os.stat(f"{commit[2:]}.commit", dir_fd=fd, follow_symlinks=False)
            return stat.S_ISREG(found.st_mode)
        return False

    def _found(self, wanted: frozenset[str]) -> Iterator[str]:
        store = self.apps / "apps"
        try:
            with _reading(store):  # where there is none, it is a bundle without Apps
                yield from _carried(self.apps, wanted)
        except NOT_PLAIN as e:
            log.warning("app_store.unreadable", path=str(store), problem=str(e))


@contextmanager
def _reading(what: Path) -> Iterator[None]:
    """Tell what is not there, which is no error, from what cannot be read.

    Raises:
        PullError: it cannot be read.
    """
    try:
        yield
    except OSError as e:
        if e.errno not in ABSENT:
            raise PullError(
                f"'{what}' cannot be read: {e.strerror}",
                hint="leave the stick in until it may go; copy the bundle again if it persists",
            ) from e


def _carried(apps: Path, wanted: frozenset[str]) -> Iterator[str]:
    for path, text in _uri_files(apps):
        if text in wanted:
            yield text
        elif text.strip() in wanted:
            log.warning(
                "app_uri.ignored",
                path=str(path),
                hint="the uri file must hold the URI alone, without a newline at its end",
            )


def _metadata_names(tuf_fd: int, tuf: Path) -> list[str]:
    """List the metadata files of an open ``tuf``.

    Raises:
        MetadataInvalidError: there are too many.
    """
    try:
        listed = sticktree.entries(tuf_fd, sticktree.Budget(TUF_ENTRIES_LIMIT), tuf)
    except sticktree.TooMuchError as e:
        raise MetadataInvalidError(f"'{tuf}' has more than {TUF_ENTRIES_LIMIT} entries") from e
    # A FAT stick may show TIMESTAMP.JSON or ._timestamp.json: only exact names have a limit.
    names = [entry.name for entry in listed if limit_of(entry.name)]
    roots = sum(name.endswith(".root.json") for name in names)
    if roots > ROOTS_LIMIT:
        raise MetadataInvalidError(f"'{tuf}' has {roots} roots, more than {ROOTS_LIMIT}")
    return names


def _documents(tuf_fd: int, names: Sequence[str], tuf: Path) -> dict[str, bytes]:
    documents: dict[str, bytes] = {}
    left = METADATA_LIMIT_BYTES
    for name in names:
        documents[name] = _document(tuf_fd, name, tuf)
        left -= len(documents[name])
        if left < 0:
            raise MetadataInvalidError(
                f"the metadata in '{tuf}' has more than {METADATA_LIMIT_BYTES} bytes together"
            )
    return documents


def _document(tuf_fd: int, name: str, tuf: Path) -> bytes:
    """Read one document of an open ``tuf``, whatever its path means by now."""
    limit = limit_of(name) or 0
    invalid = BundleMetadataInvalidError if name == BUNDLE_FILE else MetadataInvalidError
    try:
        return files.read_bounded(Path(f"/proc/self/fd/{tuf_fd}", name), limit=limit)
    except files.NotRegularError as e:
        raise invalid(f"'{tuf / name}' is not a regular file") from e
    except files.TooLargeError as e:
        raise invalid(f"'{tuf / name}' has more than {limit} bytes") from e
    except OSError as e:
        raise invalid(f"'{tuf / name}' cannot be read: {e.strerror}") from e


def _uri_files(apps: Path) -> Iterator[tuple[Path, str]]:
    """Yield every ``apps/<name>/<digest>/uri`` of a store with its exact text.

    Raises:
        OSError, or any of `NOT_PLAIN`: the store cannot be read to its end.
    """
    budget = sticktree.Budget(STORE_ENTRIES_LIMIT)
    with sticktree.open_directories(apps, "apps") as store_fd:
        for name, name_fd in _directories(store_fd, budget, apps / "apps"):
            here = apps / "apps" / name
            for digest, digest_fd in _directories(name_fd, budget, here):
                text = _uri_text(digest_fd)
                if text is not None:
                    yield here / digest / "uri", text


def _directories(fd: int, budget: sticktree.Budget, where: Path) -> Iterator[tuple[str, int]]:
    """Open one real directory after the other; macOS leaves ``._*`` and ``.DS_Store`` about."""
    for entry in sticktree.entries(fd, budget, where):
        if not entry.name.startswith(".") and sticktree.is_directory(entry):
            with sticktree.open_directory(entry.name, parent_fd=fd) as inner:
                yield entry.name, inner


def _uri_text(digest_fd: int) -> str | None:
    path = Path(f"/proc/self/fd/{digest_fd}/uri")
    with suppress(FileNotFoundError, files.NotRegularError, files.TooLargeError):
        return files.read_bounded(path, limit=URI_LIMIT_BYTES).decode("utf-8", "replace")
    return None


def find_bundles(
    mountpoint: Path,
    *,
    time_s: float = SEARCH_TIME_S,
    clock: Callable[[], float] = time.monotonic,
    entries: int = SEARCH_ENTRIES_LIMIT,
) -> tuple[Path, ...]:
    """Find every bundle of a mounted medium: packs, and directories with ``tuf`` in them.

    The medium's root, its directories and theirs are looked at, level by level, so that a
    deep pile of files hides nothing that lies above it. Hidden directories and what
    systems leave on sticks are passed over; no link is followed, no bundle is entered.
    A pack counts where a bundle's directory would; of more than `PACKS_LIMIT`, the first.

    Args:
        mountpoint: where the medium is mounted.
        time_s: how long to look; what was found by then is returned, and logged as cut short.
        clock: a clock that only goes forward, in seconds.
        entries: how many directory entries to look at, likewise.

    Returns:
        Sorted, below ``mountpoint`` with its links resolved; itself first when it is a
        bundle. Empty when the medium cannot be read.
    """
    budget = sticktree.Budget(entries, clock() + time_s, clock)
    found: list[Path] = []
    try:
        _search(mountpoint.resolve(), budget, found)
    except sticktree.TooMuchError as e:
        log.warning("search.cut_short", mountpoint=str(mountpoint), problem=str(e))
    return tuple(_few_packs(found))


def _search(root: Path, budget: sticktree.Budget, found: list[Path]) -> None:
    level = [root]
    for depth in range(SEARCH_DEPTH + 1):
        below: list[Path] = []
        for directory in level:
            try:
                below += _visit(directory, budget, found, depth)
            except (sticktree.NotPlainError, OSError) as e:
                log.warning("directory.unreadable", path=str(directory), problem=str(e))
        level = below


def _visit(directory: Path, budget: sticktree.Budget, found: list[Path], depth: int) -> list[Path]:
    """Note a bundle; return the directories below that are worth a visit."""
    budget.spend(directory)
    with sticktree.open_directory(directory) as fd:
        is_bundle = _has_tuf(fd)
        if is_bundle:
            found.append(directory)
        if depth == SEARCH_DEPTH or (is_bundle and depth > 0):
            return []
        listed = sticktree.entries(fd, budget, directory)
    found += [directory / entry.name for entry in listed if _is_pack(entry)]
    parts = BUNDLE_PARTS if is_bundle else frozenset[str]()
    return [directory / e.name for e in listed if _is_worth_a_visit(e) and e.name not in parts]


def _is_pack(entry: os.DirEntry[str]) -> bool:
    return packfile.is_pack_name(entry.name) and sticktree.is_regular(entry)


def _few_packs(found: Sequence[Path]) -> Iterator[Path]:
    packs = 0
    for path in sorted(found):
        packs += packfile.is_pack_name(path.name)
        if packs <= PACKS_LIMIT or not packfile.is_pack_name(path.name):
            yield path
    if packs > PACKS_LIMIT:
        log.warning("search.packs_left_out", found=packs, limit=PACKS_LIMIT)


def _has_tuf(fd: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat("tuf", dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _is_worth_a_visit(entry: os.DirEntry[str]) -> bool:
    skipped = entry.name.startswith(".") or entry.name.lower() in SKIPPED
    return not skipped and sticktree.is_directory(entry)
