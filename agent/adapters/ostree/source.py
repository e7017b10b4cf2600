"""The repository on the stick: looked at, and shown to ``ostree`` through one of ours.

In: a path that somebody else filled. Out: a `Source` whose objects are directories and
regular files alone, held open. ``ostree`` never opens the stick's repository itself.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import files, sticktree
from agent.adapters.ostree.keyfile import KeyFileError, read_config
from agent.core.errors import PullError

OBJECTS_LIMIT = 2_000_000  # entries in `objects`; a large rootfs has about 100 000
OBJECTS_DEPTH = 1  # objects/xx/<62 hex>.<kind>
# `bare` keeps links as links and owners as owners: no stick carries it (FAT holds archive alone).
MODES = frozenset({"archive", "archive-z2", "bare-user", "bare-user-only"})
NOT_PLAIN = (
    OSError,
    KeyFileError,
    files.TooLargeError,
    files.NotRegularError,
    sticktree.NotPlainError,
    sticktree.TooMuchError,
)


@dataclass(frozen=True, slots=True)
class Source:
    """A stick's repository that was found plain.

    Attributes:
        path: for messages.
        mode: one of `MODES`.
        objects_fd: its ``objects`` directory, open.
        missing_bytes: size of the objects the device lacks.
    """

    path: Path
    mode: str
    objects_fd: int
    missing_bytes: int


@contextmanager
def open_source(repo: Path, device_repo: Path) -> Iterator[Source]:
    """Look at a stick's repository and keep its objects open.

    Args:
        repo: the stick's repository.
        device_repo: tells which objects need not be copied.

    Raises:
        PullError: it is not a plain repository.
    """
    with ExitStack() as stack:
        try:
            source = _look(repo, device_repo, stack)
        except NOT_PLAIN as e:
            raise PullError(
                f"'{repo}' is not a plain OSTree repository: {e}",
                hint="copy the bundle to the medium again",
            ) from e
        yield source


@contextmanager
def private_repo(source: Source) -> Iterator[Path]:
    """Make a repository that is all ours but for its objects.

    ``objects`` is a link to the directory we hold open, not to its path: whatever happens
    to the path, ``ostree`` reads this directory.
    """
    with tempfile.TemporaryDirectory(prefix="usb-update-repo-") as directory:
        ours = Path(directory)
        for name in ("tmp", "state", "extensions", "refs/heads", "refs/remotes"):
            (ours / name).mkdir(parents=True)
        (ours / "config").write_text(f"[core]\nrepo_version=1\nmode={source.mode}\n", "ascii")
        (ours / "objects").symlink_to(f"/proc/{os.getpid()}/fd/{source.objects_fd}")
        yield ours


def _look(repo: Path, device_repo: Path, stack: ExitStack) -> Source:
    repo_fd = stack.enter_context(sticktree.open_directory(repo))
    mode = _mode(repo)
    objects_fd = stack.enter_context(sticktree.open_directory("objects", parent_fd=repo_fd))
    return Source(repo, mode, objects_fd, _missing_bytes(objects_fd, device_repo, repo))


def _mode(repo: Path) -> str:
    mode = read_config(repo).get("core", "mode", fallback="bare")
    if mode not in MODES:
        raise PullError(
            f"'{repo}' is a repository of mode {mode[:40]!r}, not one a stick carries",
            hint="make it with 'ostree init --mode=archive' and pull the commit into it",
        )
    return mode


def _missing_bytes(objects_fd: int, device_repo: Path, repo: Path) -> int:
    """Walk all objects; return the size of those the device lacks.

    Raises:
        sticktree.NotPlainError, sticktree.TooMuchError: something else lies among them.
    """
    budget = sticktree.Budget(OBJECTS_LIMIT)
    here = repo / "objects"
    total, directory, present = 0, Path(), frozenset[str]()
    for file in sticktree.walk_plain(objects_fd, budget, depth=OBJECTS_DEPTH, where=here):
        if file.path.parent != directory:
            directory = file.path.parent
            present = _object_names(device_repo / "objects" / directory.name)
        if file.path.stem not in present:
            total += file.size_bytes()
    return total


def _object_names(directory: Path) -> frozenset[str]:
    """Return the hashes in one directory of the device's objects."""
    with suppress(FileNotFoundError):
        return frozenset(file.stem for file in directory.iterdir())
    return frozenset()
