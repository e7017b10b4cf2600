"""OSTree commits: found in a local repository, copied whole and verified into a bundle's.

Host commands used: ostree, sync.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Self

from agent.adapters import files, shell
from agent.adapters.authoring import objects
from agent.adapters.authoring.objects import stored_name
from agent.adapters.durably import Durably
from agent.core.authoring import AuthoringError
from agent.core.target import COMMIT
from agent.ports import Progress

QUICK_S = 60.0
LIST_S = 900.0  # 30 000 files take 5 s on a slow machine
LISTING_LIMIT_BYTES = 256 * 1024 * 1024  # about 160 bytes a file: a rootfs of 1.5 million
COPY_S = 6 * 3600.0  # a slow stick and a large rootfs
OBJECT_OVERHEAD_BYTES = 4096  # one block for a small object; a bundle has many
STEP = "OSTree commit"
ARCHIVE_CONFIG = "[core]\nrepo_version=1\nmode=archive-z2\n"
STAGING = "usb-update"
BATCH_BYTES = 32 * 1024 * 1024  # what is done again at most after an interruption
GROUP_BYTES = 4 * 1024 * 1024  # what a thread is given at a time
Missing = Sequence[tuple[str, int]]
"""Objects that a repository lacks, files first, with what each takes there in bytes."""
KINDS = ("file", "dirmeta", "dirtree", "commit")  # the order in which they are copied


@dataclass(frozen=True, slots=True)
class OstreeCommits:
    """A local OSTree repository, as the source of a bundle."""

    repo: Path

    def resolve(self, ref: str) -> str:
        """Return the commit that a ref or an abbreviated commit names, 64 hex digits.

        Raises:
            AuthoringError: there is no such commit in the repository.
        """
        if not self.repo.is_dir():
            raise AuthoringError(
                f"there is no OSTree repository '{self.repo}'",
                hint="name a local one, e.g. 'ostree_repo' of a build",
            )
        if ref.startswith("-"):
            raise AuthoringError(f"{ref!r} is not a ref or commit")
        if COMMIT.fullmatch(ref) and holds_commit(self.repo, ref):
            return ref
        try:
            commit = _ostree(self.repo, "rev-parse", ref)
            _ostree(self.repo, "show", commit)
        except shell.CommandError as e:
            raise AuthoringError(
                f"OSTree repository '{self.repo}' has no commit {ref!r}: "
                f"{(e.stderr or str(e)).removeprefix('error: ')}",
                hint=f"'ostree refs --repo={self.repo}' lists what it has",
            ) from e
        if not COMMIT.fullmatch(commit):
            raise AuthoringError(f"{ref!r} in '{self.repo}' is {commit[:80]!r}, not a commit")
        return commit

    def missing(self, commit: str, repo: Path) -> Missing:
        """Return what copying ``commit`` adds to ``repo``, in the order in which it is copied.

        Raises:
            AuthoringError: the commit is not whole.
        """
        try:
            return self._measured(objects.reachable(self.repo, commit), repo)
        except AuthoringError as e:
            raise AuthoringError(
                f"commit {commit} in '{self.repo}' is not whole: {e.message}",
                hint=f"'ostree fsck --repo={self.repo}' tells what is missing",
            ) from e

    def copy(
        self, commit: str, repo: Path, progress: Progress, missing: Missing | None = None
    ) -> None:
        """Copy ``commit`` into the archive repository ``repo``, without hard links.

        Every object is hashed on its way. The commit comes last: where it is, the rest is.

        Args:
            commit: 64 hex digits.
            repo: where to.
            progress: told of the bytes.
            missing: what `missing` has just said, to spare asking again.

        Raises:
            AuthoringError: the source is damaged, or the destination cannot be written.
        """
        missing = self.missing(commit, repo) if missing is None else missing
        try:
            ensure_archive(repo)
            if objects.is_archive(self.repo):
                self._copy_objects(missing, repo, progress)
            else:
                self._pull(commit, repo, sum(size for _, size in missing), progress)
        except shell.CommandError as e:
            raise AuthoringError(
                f"commit {commit} cannot be copied from '{self.repo}' to '{repo}': {e.stderr or e}",
                hint="'ostree fsck' tells whether the source is whole",
            ) from e
        except OSError as e:
            raise AuthoringError(
                f"commit {commit} cannot be written to '{repo}': {files.why(e, repo)}"
            ) from e

    def _measured(self, names: Iterator[str], repo: Path) -> Missing:
        with ExitStack() as stack:
            theirs = stack.enter_context(objects.Objects(self.repo))
            there = _objects_of(repo, stack)
            found = [n for n in names if not there or there.size(stored_name(n)) is None]
            in_order = sorted(found, key=lambda name: KINDS.index(name.partition(".")[2]))
            return [(n, self._object_size(theirs, n) + OBJECT_OVERHEAD_BYTES) for n in in_order]

    def _object_size(self, theirs: objects.Objects, name: str) -> int:
        for stored in (stored_name(name), name):
            if (size := theirs.size(stored)) is not None:
                return size
        raise AuthoringError(
            f"'{self.repo}' lacks object {name}",
            hint=f"'ostree fsck --repo={self.repo}' tells what else is missing",
        )

    def _copy_objects(
        self, missing: Sequence[tuple[str, int]], repo: Path, progress: Progress
    ) -> None:
        """Copy objects from one archive repository to another.

        They are written elsewhere, made durable, and only then named: whatever is found
        under its name is whole, after a power cut as well.
        """
        total, done = sum(size for _, size in missing), 0
        progress(STEP, 0, total)
        with ExitStack() as stack:
            # Left in the opposite order: no directory is closed under the hands of a thread.
            staging = stack.enter_context(_Staging(repo))
            stage = partial(self._stage, stack.enter_context(objects.Objects(self.repo)), staging)
            pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count() or 1))
            kept = stack.enter_context(Durably(ahead=1))
            for batch in _batches(missing, BATCH_BYTES):
                for size in pool.map(stage, _batches(batch, GROUP_BYTES)):
                    done += size
                    progress(STEP, done, total)
                kept.add(partial(staging.publish, [stored_name(name) for name, _ in batch]))
        _sync(repo)

    def _stage(
        self, theirs: objects.Objects, staging: "_Staging", group: Sequence[tuple[str, int]]
    ) -> int:
        """Copy a few objects; return what they take."""
        for name, _ in group:
            self._stage_object(theirs, staging, name)
        return sum(size for _, size in group)

    def _stage_object(self, theirs: objects.Objects, staging: "_Staging", name: str) -> None:
        stored = stored_name(name)
        try:
            with theirs.open(stored) as old, staging.create(stored) as new:
                objects.demand_intact(name, old, new)
        except (ValueError, FileNotFoundError) as e:
            raise AuthoringError(
                f"object {name} in '{self.repo}' is damaged: {e}",
                hint=f"'ostree fsck --repo={self.repo}' tells what else is",
            ) from e

    def _pull(self, commit: str, repo: Path, total: int, progress: Progress) -> None:
        """Let ``ostree`` compress a repository of plain files; ``--untrusted`` hashes them."""
        progress(STEP, 0, total)
        shell.run(
            ["ostree", "pull-local", "--untrusted", f"--repo={repo}", str(self.repo), commit],
            timeout_s=COPY_S,
            watch=lambda pid: progress(STEP, min(_written(pid), total), total),
        )
        _sync(repo)
        progress(STEP, total, total)


class _Staging:
    """Where objects lie until they are durable: what has its name is whole.

    Args:
        repo: the archive repository they are for.
    """

    def __init__(self, repo: Path) -> None:
        self._place = repo / "tmp" / STAGING
        self._repo = repo
        self._fd = -1

    def __enter__(self) -> Self:
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(parents=True)
        self._fd = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        shutil.rmtree(self._place, ignore_errors=True)

    def create(self, name: str) -> FileIO:
        """Make an empty file for an object."""
        how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return FileIO(os.open(name, how, 0o644, dir_fd=self._fd), "wb")

    def publish(self, names: Sequence[str]) -> None:
        """Make files durable, and then give them their names."""
        _sync(self._place)
        with objects.Objects(self._repo) as ours:
            ours.take(names, self._fd)


def _batches(
    entries: Sequence[tuple[str, int]], limit_bytes: int
) -> Iterator[list[tuple[str, int]]]:
    """Divide objects into portions of about ``limit_bytes``."""
    batch: list[tuple[str, int]] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += entry[1]
        if size >= limit_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _objects_of(repo: Path, stack: ExitStack) -> objects.Objects | None:
    """Open the objects of a repository that may not be there yet."""
    try:
        return stack.enter_context(objects.Objects(repo))
    except FileNotFoundError:
        return None


def holds_commit(repo: Path, commit: str) -> bool:
    """Whether ``repo`` has the commit object."""
    return (repo / "objects" / commit[:2] / f"{commit[2:]}.commit").is_file()


def damaged_objects(repo: Path, commits: Sequence[str], progress: Progress) -> list[str]:
    """Read every object of commits and say which are missing or differ from their names."""
    problems: list[str] = []
    names: dict[str, None] = {}
    for commit in commits:
        try:
            names.update(dict.fromkeys(objects.reachable(repo, commit, checked=True)))
        except AuthoringError as e:
            problems.append(f"commit {commit}: {e.message}")
    found = [name for name in names if name.endswith(".file")]
    if not found:
        return problems
    with objects.Objects(repo) as theirs, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, problem in enumerate(pool.map(lambda name: _problem(theirs, name), found), 1):
            if problem:
                problems.append(problem)
            progress("objects", done, len(found))
    return problems


def _problem(theirs: objects.Objects, name: str) -> str:
    try:
        with theirs.open(stored_name(name)) as file:
            objects.demand_intact(name, file)
    except FileNotFoundError:
        return f"'{theirs.repo}' lacks object {name}"
    except (OSError, ValueError) as e:
        return f"object {name} in '{theirs.repo}' is damaged: {e}"
    return ""


def list_commit(repo: Path, commit: str, scratch: Path) -> str:
    """List every file of a commit with its checksums, one a line.

    The program sees a repository of our own making whose objects are the bundle's: the
    bundle's configuration could name a parent repository that hides what is missing.

    Args:
        repo: the bundle's repository.
        commit: 64 hex digits.
        scratch: an empty directory.

    Raises:
        AuthoringError: the commit is not there, or not whole.
    """
    _make_private(repo, scratch)
    try:
        return _listing(scratch, commit)
    except shell.CommandError as e:
        raise AuthoringError(
            f"commit {commit} in '{repo}' cannot be listed: {e.stderr or e}",
            hint="'usb-update bundle verify --deep' tells what is missing",
        ) from e


def _make_private(repo: Path, scratch: Path) -> None:
    """Make a repository of our own whose objects are those of ``repo``."""
    for name in ("refs/heads", "refs/remotes", "refs/mirrors", "tmp", "state", "extensions"):
        (scratch / name).mkdir(parents=True)
    (scratch / "config").write_text(ARCHIVE_CONFIG, encoding="ascii")
    (scratch / "objects").symlink_to((repo / "objects").absolute())


def _sync(path: Path) -> None:
    """Make what was written to a file system durable."""
    shell.run(["sync", "-f", str(path)], timeout_s=COPY_S)


def ensure_archive(repo: Path) -> None:
    """Make an empty archive repository where there is none."""
    if not (repo / "config").exists():
        repo.mkdir(parents=True, exist_ok=True)
        _ostree(repo, "init", "--mode=archive")


def _ostree(repo: Path, *arguments: str) -> str:
    command, *rest = arguments
    finished = shell.run(["ostree", command, f"--repo={repo}", *rest], timeout_s=QUICK_S)
    return finished.text.strip()


def _listing(repo: Path, commit: str) -> str:
    """List every file of a commit with its checksums.

    Raises:
        shell.CommandError: the commit is not whole.
        AuthoringError: the list would be cut off.
    """
    finished = shell.run(
        ["ostree", "ls", f"--repo={repo}", "-R", "-C", commit, "/"],
        timeout_s=LIST_S,
        limit_bytes=LISTING_LIMIT_BYTES,
    )
    if len(finished.stdout) >= LISTING_LIMIT_BYTES:
        raise AuthoringError(f"commit {commit} has too many files to list them")
    return finished.text


def _written(pid: int) -> int:
    """Return the bytes a program has written so far."""
    try:
        text = Path(f"/proc/{pid}/io").read_text(encoding="ascii")
    except OSError:
        return 0
    return int(re.search(r"^wchar: (\d+)", text, re.MULTILINE).group(1))  # type: ignore[union-attr]


def free_bytes(path: Path) -> int:
    """Return how much an ordinary user may still write at ``path``."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
