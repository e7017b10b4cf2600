"""App sources at a commit: a repository read object by object, never checked out.

In: ``PATH[@REF]``, a bare or ordinary clone on this machine. Out: the commit it names, files
of its tree, and the Compose Apps in it, found as a factory's CI finds them: each top-level
directory with ``docker-compose.yml``, but for those whose name ends in ``.disabled``.

The content is somebody else's: objects are sized before they are read, entries and depth
are bounded, links are carried as text and never followed. Blobs are taken as they are
stored; filters and line ends of ``.gitattributes`` are not applied.

Uses pygit2, imported when a repository is opened.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from agent.core.appfiles import COMPOSE_NAME, IGNORE_NAME, AppFile, AppSource, Kind
from agent.core.authoring import AuthoringError
from agent.core.prebuild import DEFAULT, demand_one_file

if TYPE_CHECKING:
    import yaml
    from pygit2 import Commit, Object, Oid, Reference, Repository, Tree

FILE_LIMIT_BYTES = 256 * 1024 * 1024  # held in memory while it is packed, twice for a moment
TREE_LIMIT_BYTES = 4 * 1024 * 1024  # about 100 000 entries
LINK_LIMIT_BYTES = 4096  # PATH_MAX
ENTRIES_LIMIT = 50_000  # in one App; a small repository can list one tree without end
DEPTH_LIMIT = 64  # directories in directories; devices refuse deeper Apps
NODES_LIMIT = 20_000  # of a YAML file once its aliases are followed
DISABLED = ".disabled"
MISSPELT = "docker-compose.yaml"
TREE, LINK, GITLINK = 0o040000, 0o120000, 0o160000  # git's modes
FILES = frozenset({0o100644, 0o100664, 0o100755})  # old versions of git wrote the second
DIRECTORIES = frozenset({TREE, GITLINK})
OWNER_RUNS = 0o100
HEADS, REMOTES, TAGS = "refs/heads/", "refs/remotes/", "refs/tags/"

Spell = Callable[[str], str]
"""Which image a reference of a compose file means."""


def parse_place(text: str) -> tuple[Path, str]:
    """Split ``PATH[@REF]``; a path that exists may hold an ``@`` itself.

    Returns:
        The path, and the ref; empty when none is named.

    Raises:
        AuthoringError: the part before or after ``@`` is empty.
    """
    path, at, ref = text.rpartition("@")
    if not at or Path(text).exists():
        path, ref = text, ""
    if not path or (at and not ref and not Path(text).exists()):
        raise AuthoringError(f"{text!r} is not PATH[@REF]", hint="e.g. containers.git@main")
    return Path(path), ref


def open_revision(text: str) -> "GitRevision":
    """Open the commit that ``PATH[@REF]`` names; without a ref, the one of ``HEAD``.

    Raises:
        AuthoringError: there is no such repository, ref or commit.
    """
    path, ref = parse_place(text)
    repo = _open(path)
    commit, branch = _resolve(repo, ref, path)
    where = f"'{path}' at {str(commit.id)[:12]}"
    with _readable(where, repo):
        _demand_size(repo, commit.tree_id, TREE_LIMIT_BYTES, where)
        tree = _Tree(repo, commit.tree, "", where, {})
    return GitRevision(path, str(commit.id), branch, tree)


def _demand_pygit2() -> None:
    """Refuse a pygit2 that is missing, or cannot size an object before it is read."""
    hint = "install it for the Python that runs this: pip install 'pygit2>=1.19.2'"
    try:
        import pygit2  # noqa: PLC0415  only who authors from git pays for it
    except ImportError as e:
        raise AuthoringError(f"git repositories are read with pygit2: {e}", hint=hint) from e
    if not hasattr(pygit2.Odb, "read_header"):
        raise AuthoringError(
            f"pygit2 {version('pygit2')} is too old, expected 1.19.2 or later", hint=hint
        )


def _open(path: Path) -> "Repository":
    _demand_pygit2()
    import pygit2  # noqa: PLC0415  it is there

    try:
        # The path itself, not a repository that happens to lie around it.
        return pygit2.Repository(str(path), pygit2.enums.RepositoryOpenFlag.NO_SEARCH)
    except (pygit2.GitError, OSError, ValueError) as e:
        raise AuthoringError(
            f"'{path}' cannot be opened as a git repository: {e}",
            hint="name a clone on this machine, e.g. made with 'git clone --bare'; one of another "
            "user needs 'git config --global --add safe.directory PATH'",
        ) from e


def _resolve(repo: "Repository", ref: str, path: Path) -> "tuple[Commit, str]":
    """Return the commit that ``ref`` names, and the branch when it names one."""
    import pygit2  # noqa: PLC0415  as above

    try:
        if not ref:
            return repo.head.peel(pygit2.Commit), _branch(repo.head.name)
        _demand_one_meaning(repo, ref, path)
        # The stub says there always is a reference; a commit's name has none.
        target, reference = cast("tuple[Object, Reference | None]", repo.resolve_refish(ref))
        # HEAD, and that of a remote, stand for a branch.
        branch = _branch(reference.resolve().name) if reference else ""
        return target.peel(pygit2.Commit), branch
    except (pygit2.GitError, KeyError, ValueError) as e:
        raise AuthoringError(
            f"repository '{path}' has no commit {ref!r}"
            if ref
            else f"repository '{path}' has no commit at its HEAD",
            hint=f"it has {_names(repo)}; 'git fetch' brings what is new",
        ) from e


def _demand_one_meaning(repo: "Repository", ref: str, path: Path) -> None:
    if HEADS + ref in repo.references and TAGS + ref in repo.references:
        raise AuthoringError(
            f"repository '{path}' has both a branch and a tag {ref!r}",
            hint=f"say {HEADS}{ref} or {TAGS}{ref}",
        )


def _branch(name: str) -> str:
    """Return the branch a reference stands for, as ``refs/heads/<name>``; empty for none."""
    if name.startswith(REMOTES):
        _, _, rest = name.removeprefix(REMOTES).partition("/")
        return HEADS + rest
    return name if name.startswith(HEADS) else ""


def _names(repo: "Repository", limit: int = 8) -> str:
    found = sorted(n.removeprefix("refs/") for n in repo.references)
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return (", ".join(found[:limit]) + more) or "no branches or tags"


@dataclass(frozen=True, slots=True)
class GitRevision:
    """One commit of a repository.

    Attributes:
        path: of the repository.
        commit: 40 hex digits.
        branch: ``refs/heads/<name>`` when it was named by a branch, else empty.
        tree: its files.
    """

    path: Path
    commit: str
    branch: str
    tree: "_Tree"

    def document(self, name: str, limit: int) -> object:
        """Return the values of a YAML file; None when there is none, or nothing in it.

        Raises:
            AuthoringError: it is not YAML, or longer than ``limit`` bytes.
        """
        data = self.tree.read(name, limit)
        return None if data is None else _yaml(data, f"'{name}' in {self.tree.where}")

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file at the top, None when there is none.

        Raises:
            AuthoringError: it is no regular file, too long, or cannot be read.
        """
        return self.tree.read(name, limit)

    def apps(
        self,
        *,
        spell: Spell = str,
        submodules: Mapping[str, Path] | None = None,
        compose_files: Sequence[str] = DEFAULT,
    ) -> tuple[AppSource, ...]:
        """Return the Compose Apps of this commit, by name.

        Args:
            spell: which image a reference of their compose files means.
            submodules: clones of submodules by their path in the tree; what a submodule
                holds is not in this repository.
            compose_files: those that CI would merge, where an App has them.

        Raises:
            AuthoringError: a directory cannot be used as an App, or it is not known
                whether it is one.
        """
        root = self.tree.with_submodules(submodules or {})
        found = (
            GitApp(entry.name, self.path, self.commit, tree, spell)
            for entry in root.entries()
            if not entry.name.endswith(DISABLED) and (tree := root.directory(entry)) is not None
        )
        apps = tuple(app for app in found if app.is_app())
        for app in apps:
            demand_one_file(app.where, [name for name in compose_files if app.tree.has(name)])
        return apps


@dataclass(frozen=True, slots=True)
class GitApp:
    """One App at one commit.

    Attributes:
        name: of its directory.
        repo, commit: where it is.
        tree: its files.
        spell: which image a reference of its compose file means.
    """

    name: str
    repo: Path
    commit: str
    tree: "_Tree"
    spell: Spell

    @property
    def where(self) -> str:
        """What to call it in messages."""
        return f"App {self.name!r} of '{self.repo}' at {self.commit[:12]}"

    def is_app(self) -> bool:
        """Whether it is an App: it has a compose file of the one right name.

        Raises:
            AuthoringError: only the name is wrong; CI refuses that as well.
        """
        names = {entry.name for entry in self.tree.entries()}
        if COMPOSE_NAME not in names and MISSPELT in names:
            raise AuthoringError(
                f"{self.where} has '{MISSPELT}' and no '{COMPOSE_NAME}'",
                hint=f"rename the file, or the directory to '{self.name}{DISABLED}'",
            )
        return COMPOSE_NAME in names

    def files(self) -> Iterator[AppFile]:
        """Yield every entry, at any depth.

        Raises:
            AuthoringError: there are too many, or an object cannot be read.
        """
        for count, file in enumerate(self.tree.walk(), 1):
            if count > ENTRIES_LIMIT:
                raise AuthoringError(f"{self.where} has more than {ENTRIES_LIMIT} entries")
            yield file

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file of at most ``limit`` bytes, None when there is none.

        Raises:
            AuthoringError: it is no regular file, too long, or cannot be read.
        """
        return self.tree.read(name, limit)

    def image(self, text: str) -> str:
        """Return the image reference that ``text`` means."""
        return self.spell(text)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of a tree: a name, a mode as git spells it, and the object it names."""

    name: str
    mode: int
    id: "Oid"


@dataclass(frozen=True, slots=True)
class _Tree:
    """A directory of a commit.

    Attributes:
        repo, tree: where its objects are.
        path: its own, from the root of the first repository; empty for the root.
        where: repository and commit, for messages.
        submodules: repositories of submodules, by path.
    """

    repo: "Repository"
    tree: "Tree"
    path: str
    where: str
    submodules: "Mapping[str, Repository]"

    def with_submodules(self, clones: Mapping[str, Path]) -> "_Tree":
        """Return this root with clones at hand for its submodules.

        Raises:
            AuthoringError: there is no submodule at one of the paths.
        """
        for path in clones:
            # What lies in another submodule is found when that one is walked.
            nested = any(path.startswith(f"{other}/") for other in clones)
            if not nested and self._mode_at(path) != GITLINK:
                raise AuthoringError(f"{self.where} has no submodule at {path!r}")
        return replace(self, submodules={path: _open(clone) for path, clone in clones.items()})

    def entries(self) -> list[_Entry]:
        """Return what lies directly in it.

        Raises:
            AuthoringError: a name is none.
        """
        with self._reading():
            found = [_Entry(_name(e), int(e.filemode), e.id) for e in self.tree]
        for entry in found:
            if entry.name in ("", ".", "..") or "/" in entry.name:
                raise AuthoringError(f"{self.where} has an entry {entry.name!r} in '{self.path}/'")
        return found

    def walk(self, below: str = "", depth: int = DEPTH_LIMIT) -> Iterator[AppFile]:
        """Yield all entries, at any depth, by their path from here.

        Raises:
            AuthoringError: directories are nested too deep, or an object cannot be read.
        """
        if depth == 0:
            raise AuthoringError(f"'{self.path}' in {self.where} is nested too deep")
        for entry in self.entries():
            name = below + entry.name
            inner = self._inside(entry) if entry.mode in DIRECTORIES else None
            yield AppFile(name, Kind.DIRECTORY) if inner else self._leaf(entry, name)
            if inner:
                yield from inner.walk(f"{name}/", depth - 1)

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file that lies directly in it, None when there is none.

        Raises:
            AuthoringError: it is no regular file, too long, or cannot be read.
        """
        entry = next((entry for entry in self.entries() if entry.name == name), None)
        if entry is None:
            return None
        if entry.mode not in FILES:
            raise AuthoringError(f"{self._path(name)!r} in {self.where} is not a regular file")
        return self._blob(entry, limit)

    def has(self, path: str) -> bool:
        """Whether something lies at a path."""
        return bool(self._mode_at(path))

    def directory(self, entry: _Entry) -> "_Tree | None":
        """Return a directory in this root, None for what is no directory.

        Raises:
            AuthoringError: whether it holds an App cannot be known, or CI would see one
                that cannot be packed.
        """
        if entry.mode == LINK:
            self._demand_no_linked_app(entry)
            return None
        if entry.mode not in DIRECTORIES:
            return None
        inner = self._inside(entry)
        if inner is None:
            raise AuthoringError(
                f"{entry.name!r} in {self.where} is a submodule, so it is not known whether it "
                "is an App",
                hint=f"give a clone of it with --submodule {_typed(entry.name)}=PATH",
            )
        return inner

    def _demand_no_linked_app(self, entry: _Entry) -> None:
        link = self._blob(entry, LINK_LIMIT_BYTES).decode("utf-8", "replace")
        parts = [part for part in link.split("/") if part not in ("", ".")]
        if ".." not in parts and self._mode_at("/".join([*parts, COMPOSE_NAME])):
            raise AuthoringError(
                f"{entry.name!r} in {self.where} is a link to {link!r}, which holds an App",
                hint=f"make it a directory, or rename it to {entry.name + DISABLED!r}",
            )

    def _mode_at(self, path: str) -> int:
        """Return the mode of what lies at a path; 0 for nothing."""
        with self._reading():
            try:
                return int(self.tree[path].filemode)
            except KeyError:
                return 0

    def _inside(self, entry: _Entry) -> "_Tree | None":
        """Return the directory an entry names; None for a submodule without a clone."""
        path = self._path(entry.name)
        if entry.mode == GITLINK and path not in self.submodules:
            return None
        repo = self.submodules[path] if entry.mode == GITLINK else self.repo
        return replace(self, repo=repo, tree=self._subtree(entry, repo, path), path=path)

    def _subtree(self, entry: _Entry, repo: "Repository", path: str) -> "Tree":
        import pygit2  # noqa: PLC0415  it is loaded: there is a repository

        what = f"{path!r} in {self.where}"
        with _readable(what, repo):
            named = entry.id
            if entry.mode == GITLINK:
                named = repo[named].peel(pygit2.Commit).tree_id
            _demand_size(repo, named, TREE_LIMIT_BYTES, what)
            return repo[named].peel(pygit2.Tree)

    def _leaf(self, entry: _Entry, name: str) -> AppFile:
        if entry.mode == LINK:
            return self._link(entry, name)
        if entry.mode == GITLINK:
            path = self._path(entry.name)
            note = "a submodule, whose files are not in this repository"
            more = f"give a clone of it with --submodule {_typed(path)}=PATH"
            return AppFile(name, Kind.OTHER, note=f"{note} ({more})")
        if entry.mode not in FILES:
            return AppFile(name, Kind.OTHER, note=f"of git mode {entry.mode:o}")
        runs = bool(entry.mode & OWNER_RUNS)
        return AppFile(name, Kind.FILE, executable=runs, open=lambda: self._opened(entry))

    def _link(self, entry: _Entry, name: str) -> AppFile:
        try:
            link = self._blob(entry, LINK_LIMIT_BYTES).decode()
        except UnicodeDecodeError:
            return AppFile(name, Kind.OTHER, note="a link to a name that is not UTF-8 text")
        return AppFile(name, Kind.LINK, link=link)

    @contextmanager
    def _opened(self, entry: _Entry) -> Iterator[tuple[IO[bytes], int]]:
        data = self._blob(entry, FILE_LIMIT_BYTES)
        yield BytesIO(data), len(data)

    def _blob(self, entry: _Entry, limit: int) -> bytes:
        what = f"{self._path(entry.name)!r} in {self.where}"
        with _readable(what, self.repo):
            _demand_size(self.repo, entry.id, limit, what)
            return self.repo.odb.read(entry.id)[1]

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def _reading(self) -> AbstractContextManager[None]:
        return _readable(f"'{self.path or '.'}' in {self.where}", self.repo)


@contextmanager
def _readable(what: str, repo: "Repository") -> Iterator[None]:
    """Say what could not be read, and that the clone is to blame."""
    import pygit2  # noqa: PLC0415  it is loaded: there is a repository

    try:
        yield
    except (pygit2.GitError, KeyError, ValueError, OSError) as e:
        raise AuthoringError(
            f"{what} cannot be read from '{repo.path}': {e}",
            hint="the clone must be whole: neither partial nor damaged ('git fsck'), and with "
            "every commit that is asked for ('git fetch')",
        ) from e


def _demand_size(repo: "Repository", oid: "Oid", limit: int, what: str) -> None:
    """Look at the length first: reading an object takes as much memory as it says."""
    _, size = repo.odb.read_header(oid)
    if size > limit:
        raise AuthoringError(
            f"{what} has {size} bytes, more than {limit}",
            hint=f"put large files into an image, or list them in '{IGNORE_NAME}'",
        )


def _typed(name: str) -> str:
    """Return a name as a person types it in a shell, and as a terminal may show it."""
    return shlex.quote(name) if name.isprintable() else repr(name)


def _name(entry: "Object") -> str:
    return bytes(entry.raw_name or b"").decode("utf-8", "surrogateescape")


def _yaml(data: bytes, what: str) -> object:
    """Read values from YAML that somebody else wrote."""
    import yaml  # noqa: PLC0415  only who reads a factory's configuration pays for it

    try:
        _demand_bounded(yaml.compose(data, Loader=yaml.SafeLoader), what)
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError) as e:
        raise AuthoringError(f"{what} cannot be read as YAML: {' '.join(str(e).split())}") from e


def _demand_bounded(node: "yaml.Node | None", what: str) -> None:
    """Count nodes as whoever follows the aliases would: merging keys repeats them all."""
    left, waiting = NODES_LIMIT, [node]
    while waiting:
        left -= 1
        if left < 0:
            raise AuthoringError(f"{what} has more than {NODES_LIMIT} values, or a loop")
        value = getattr(waiting.pop(), "value", None)
        if isinstance(value, list):
            waiting += [n for item in value for n in (item if isinstance(item, tuple) else (item,))]
