"""OSTree commits: found in a local repository, copied whole and verified into a bundle's.

Host commands used: ostree, sync.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import shell
from agent.adapters.authoring import objects
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
BATCH_BYTES = 128 * 1024 * 1024  # what is done again at most after an interruption
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
        if ref.startswith("-"):
            raise AuthoringError(f"{ref!r} is not a ref or commit")
        try:
            commit = _ostree(self.repo, "rev-parse", ref)
            _ostree(self.repo, "show", commit)
        except shell.CommandError as e:
            raise AuthoringError(
                f"OSTree repository '{self.repo}' has no commit {ref!r}: {e.stderr or e}",
                hint=f"'ostree refs --repo={self.repo}' lists what it has",
            ) from e
        if not COMMIT.fullmatch(commit):
            raise AuthoringError(f"{ref!r} in '{self.repo}' is {commit[:80]!r}, not a commit")
        return commit

    def size(self, commit: str, repo: Path) -> int:
        """Return about how many bytes copying ``commit`` adds to ``repo``.

        Raises:
            AuthoringError: the commit is not whole.
        """
        return sum(size for _, size in self._missing(commit, repo))

    def copy(self, commit: str, repo: Path, progress: Progress) -> None:
        """Copy ``commit`` into the archive repository ``repo``, without hard links.

        Every object is hashed on its way. The commit comes last: where it is, the rest is.

        Raises:
            AuthoringError: the source is damaged, or the destination cannot be written.
        """
        missing = self._missing(commit, repo)
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
            raise AuthoringError(f"commit {commit} cannot be written to '{repo}': {e}") from e

    def _missing(self, commit: str, repo: Path) -> list[tuple[str, int]]:
        """Return the objects that ``repo`` lacks, with what each will take, files first."""
        try:
            names = objects.reachable(self.repo, commit)
            found = [n for n in names if not objects.object_path(repo, _stored(n)).exists()]
        except AuthoringError as e:
            raise AuthoringError(
                f"commit {commit} in '{self.repo}' is not whole: {e.message}",
                hint=f"'ostree fsck --repo={self.repo}' tells what is missing",
            ) from e
        in_order = sorted(found, key=lambda name: KINDS.index(name.partition(".")[2]))
        return [(name, self._object_size(name) + OBJECT_OVERHEAD_BYTES) for name in in_order]

    def _object_size(self, name: str) -> int:
        for stored in (_stored(name), name):
            with suppress(FileNotFoundError):
                return objects.object_path(self.repo, stored).lstat().st_size
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
        staging = repo / "tmp" / STAGING
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for batch in _batches(missing):
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir(parents=True)
                names = [name for name, _ in batch]
                staged = pool.map(lambda name: self._stage(name, staging), names)
                for (_, size), _ in zip(batch, staged, strict=True):
                    done += size
                    progress(STEP, done, total)
                _sync(staging)
                for directory in {name[:2] for name in names}:
                    (repo / "objects" / directory).mkdir(exist_ok=True)
                for name in names:
                    (staging / name).rename(objects.object_path(repo, _stored(name)))
        shutil.rmtree(staging, ignore_errors=True)
        _sync(repo)

    def _stage(self, name: str, staging: Path) -> None:
        source = objects.object_path(self.repo, _stored(name))
        try:
            with (
                source.open("rb", buffering=0) as old,
                (staging / name).open("wb", buffering=0) as new,
            ):
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


def _stored(name: str) -> str:
    """Return how an archive repository calls an object: its files are compressed."""
    return f"{name}z" if name.endswith(".file") else name


def _batches(missing: Sequence[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """Divide objects into what is worth being made durable at once."""
    batch: list[tuple[str, int]] = []
    size = 0
    for entry in missing:
        batch.append(entry)
        size += entry[1]
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


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
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, problem in enumerate(pool.map(lambda name: _problem(repo, name), found), 1):
            if problem:
                problems.append(problem)
            progress("objects", done, len(found))
    return problems


def _problem(repo: Path, name: str) -> str:
    try:
        with objects.object_path(repo, _stored(name)).open("rb", buffering=0) as file:
            objects.demand_intact(name, file)
    except FileNotFoundError:
        return f"'{repo}' lacks object {name}"
    except (OSError, ValueError) as e:
        return f"object {name} in '{repo}' is damaged: {e}"
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
