"""A factory in a directory: its books are a git repository, one commit per act.

The newest commit is the truth. A change is made on a copy of it, under a lock, and kept by
moving the branch, which git does whole or not at all; the files beside it are written
afterwards for people and other programs, and put right by the next change if that was
interrupted. Private keys, the OSTree repository and the Apps lie in the same directory and
are never part of a commit: what is committed is the books, not what the directory holds.

pygit2 is imported where it is used.
"""

import getpass
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.adapters import files
from agent.core import factory
from agent.core.authoring import AuthoringError, IssuedVersions, OnlineKeys
from agent.core.bundletype import BundleType
from agent.core.factory import Books
from agent.log import get_logger

if TYPE_CHECKING:
    import pygit2

log = get_logger()

LOCK_FILE = ".lock"
LOCK_WAIT_S = 60.0  # an act takes a fraction of a second; ten people may wait in line
COPY_LOCK_FILE = ".copying.lock"
COPY_WAIT_S = 3600.0  # somebody else's rootfs from a slow disk
FILE_LIMIT_BYTES = 8 * 1024 * 1024  # the reference's bound for targets.json
DEPTH_LIMIT = 6  # directories of the books
MODE = 0o644  # the books hold nothing secret
BRANCH = "refs/heads/main"
# Beside the repository: so that a branch moved back does not take versions back.
SEEN_FILE = ".versions-issued.json"
IGNORED = b"/keys/\n/ostree_repo/\n/apps/\n/.*\n!/.gitignore\n"
# Everything else in these directories is not of this factory.
UNDER_GIT = ("roots", "targets", "waves")


class FactoryDirectory:
    """The books of a factory, kept in git."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether there is a factory."""
        return (self.path / factory.FACTORY_FILE).is_file()

    def create(self, books: Mapping[str, bytes], message: str) -> None:
        """Open the books of a new factory.

        Raises:
            AuthoringError: there is one already, or it cannot be written.
        """
        import pygit2  # noqa: PLC0415

        with self._locked(LOCK_FILE, LOCK_WAIT_S), _git_errors(self.path):
            if self._git.exists() and self._repository().references.get(BRANCH):
                self._project(self.read())
                raise AuthoringError(
                    f"'{self.path}' is a factory already", hint="name a new directory"
                )
            pygit2.init_repository(str(self.path), initial_head=BRANCH.rpartition("/")[2])
            self._keep({**books, ".gitignore": IGNORED}, message)

    def read(self) -> dict[str, bytes]:
        """Return the books as of the newest act.

        Raises:
            AuthoringError: there is no factory, or git cannot read it.
        """
        with _git_errors(self.path):
            repo = self._repository()
            reference = repo.references.get(BRANCH)
            if reference is None:
                raise AuthoringError(
                    f"'{self.path}' has no branch '{BRANCH}', so no act of a factory",
                    hint="'usb-update factory init DIR' makes one",
                )
            return dict(_files(reference.peel(_commit_type()).tree, "", DEPTH_LIMIT))

    def change(self, act: Callable[[Books], str]) -> dict[str, bytes]:
        """Let ``act`` change the books, alone; keep them under the message it returns.

        Args:
            act: changes the books it is given; what it raises leaves them as they were.

        Returns:
            The books after it.

        Raises:
            AuthoringError: another act takes too long, something would go back, or it
                cannot be written.
        """
        with self._locked(LOCK_FILE, LOCK_WAIT_S):
            before = self.read()
            after = dict(before)
            factory.raise_versions(after, self._seen())
            message = act(after)
            factory.demand_forward(before, after)
            with _git_errors(self.path):
                self._keep(after, message)
        return after

    @contextmanager
    def copying(self) -> Iterator[None]:
        """Hold the OSTree repository and the Apps for writing, alone.

        Raises:
            AuthoringError: another process has been copying for an hour.
        """
        with self._locked(COPY_LOCK_FILE, COPY_WAIT_S):
            yield

    @property
    def _git(self) -> Path:
        return self.path / ".git"

    @contextmanager
    def _locked(self, name: str, wait_s: float) -> Iterator[None]:
        try:
            with files.locked(self.path / name, wait_s=wait_s):
                yield
        except BlockingIOError as e:
            raise AuthoringError(
                f"another process has been at '{self.path}' for {wait_s:g} s",
                hint="try again when it has ended",
            ) from e

    def _repository(self) -> "pygit2.Repository":
        import pygit2  # noqa: PLC0415

        if not self._git.exists():
            raise AuthoringError(
                f"'{self.path}' is no factory: it has no git repository",
                hint="'usb-update factory init DIR' makes one; --factory-dir names it",
            )
        pygit2.settings.enable_fsync_gitdir(True)  # noqa: FBT003  as pygit2 has it
        return pygit2.Repository(str(self._git), pygit2.enums.RepositoryOpenFlag.NO_SEARCH)

    def _keep(self, after: Mapping[str, bytes], message: str) -> None:
        """Commit, then write the files; the versions first, so that they never go back."""
        repo = self._repository()
        self._remember(factory.issued_versions(after).highest)
        _commit(repo, after, message)
        self._project(after)
        index = repo.index
        index.read_tree(repo.references[BRANCH].peel(_commit_type()).tree)
        index.write()
        log.info("factory.changed", directory=str(self.path), act=message.partition("\n")[0])

    def _project(self, books: Mapping[str, bytes]) -> None:
        """Let the files in the directory be those of the newest commit."""
        for name, data in books.items():
            path = self.path / name
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_atomic(path, data, mode=MODE)
        for part in UNDER_GIT:
            for path in list((self.path / part).rglob("*")):
                if path.is_file() and str(path.relative_to(self.path)) not in books:
                    files.remove_durably(path)

    def _seen(self) -> dict[str, int]:
        try:
            data = files.read_bounded(self.path / SEEN_FILE, limit=FILE_LIMIT_BYTES)
            return {str(kind): int(version) for kind, version in json.loads(data).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, files.NotRegularError) as e:
            raise AuthoringError(
                f"'{self.path / SEEN_FILE}' does not hold the versions issued: "
                f"{files.why(e, self.path / SEEN_FILE)}",
                hint=f"if '{factory.STATE_FILE}' is as new as the last bundle, remove the file",
            ) from e

    def _remember(self, versions: Mapping[str, int]) -> None:
        data = json.dumps(dict(versions), sort_keys=True).encode() + b"\n"
        files.write_atomic(self.path / SEEN_FILE, data, mode=MODE)


class FactoryKeys:
    """A factory's keys as `services.desk.FactoryKeys`, with the counter in its books.

    Args:
        books: the factory's.
        archives: reads the online keys in the same directory.
    """

    def __init__(self, books: FactoryDirectory, archives: Any) -> None:  # noqa: ANN401  a port's
        self._books = books
        self._archives = archives

    def create(self, *_: object) -> None:
        """Refuse: a factory has its keys.

        Raises:
            AuthoringError: always.
        """
        raise AuthoringError(
            f"'{self._books.path}' is a factory; keys are never overwritten",
            hint="'usb-update keys rotate' replaces one",
        )

    def roots(self, bundle_type: BundleType) -> dict[str, bytes]:
        """Return ``N.root.json`` to bytes, from version 1 to the latest."""
        return factory.roots_of(self._books.read(), bundle_type)

    def online(self) -> OnlineKeys:
        """Return the keys that sign without a person."""
        keys: OnlineKeys = self._archives.online()
        return keys

    def versions(self) -> IssuedVersions:
        """Return the versions issued so far."""
        return factory.issued_versions(self._books.read())

    def reserve_version(self, bundle_type: BundleType, above: int, request: str = "") -> int:
        """Take the next metadata version, in an act of its own."""
        taken: list[int] = []

        def act(books: Books) -> str:
            taken.append(factory.take_version(books, bundle_type, above, request))
            return f"bundle: {bundle_type} version {taken[0]}\n\n{request}"

        self._books.change(act)
        return taken[0]


def _commit(repo: "pygit2.Repository", books: Mapping[str, bytes], message: str) -> None:
    import pygit2  # noqa: PLC0415

    index = pygit2.Index()
    for path, data in sorted(books.items()):
        blob = repo.create_blob(data)
        index.add(pygit2.IndexEntry(path, blob, pygit2.enums.FileMode.BLOB))
    tip = repo.references.get(BRANCH)
    parents = [tip.target] if tip else []
    who = _signature(repo)
    # Refused by git when the branch has moved on from `parents`: no act is lost.
    repo.create_commit(BRANCH, who, who, f"{message}\n", index.write_tree(repo), parents)


def _signature(repo: "pygit2.Repository") -> "pygit2.Signature":
    """Name who acts: as git's configuration says, else as the machine does."""
    import pygit2  # noqa: PLC0415

    try:
        return repo.default_signature
    except (KeyError, ValueError, pygit2.GitError):
        name = _user()
        return pygit2.Signature(name, f"{name}@{platform.node() or 'localhost'}", int(time.time()))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without an account
        return "unknown"


def _files(tree: "pygit2.Tree", prefix: str, depth: int) -> Iterator[tuple[str, bytes]]:
    import pygit2  # noqa: PLC0415

    for entry in tree:
        path = f"{prefix}{entry.name}"
        if isinstance(entry, pygit2.Tree) and depth > 0:
            yield from _files(entry, f"{path}/", depth - 1)
        elif isinstance(entry, pygit2.Blob) and entry.size <= FILE_LIMIT_BYTES:
            yield path, entry.data
        else:
            raise AuthoringError(f"'{path}' in the factory's books is no small file")


def _commit_type() -> Any:  # noqa: ANN401  pygit2's class
    import pygit2  # noqa: PLC0415

    return pygit2.Commit


@contextmanager
def _git_errors(path: Path) -> Iterator[None]:
    import pygit2  # noqa: PLC0415

    try:
        yield
    except pygit2.GitError as e:
        raise AuthoringError(
            f"git cannot work on '{path}': {e}",
            hint="the directory must be this user's own; 'git fsck' in it tells what is damaged",
        ) from e
    except OSError as e:
        raise AuthoringError(f"the factory '{path}' cannot be written: {files.why(e, path)}") from e
