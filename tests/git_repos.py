"""Real git repositories for tests, made object by object: what a clone holds, and nothing else.

Files are bytes; `Link`, `Program` and `Submodule` say what else an entry may be. Everything
is deterministic: the same call gives the same commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType

AUTHOR = pygit2.Signature("Author", "author@example.com", 1767323045, 0)


@dataclass(frozen=True)
class Program:
    """A file that its owner may execute."""

    data: bytes


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: bytes


@dataclass(frozen=True)
class Submodule:
    """A commit of another repository."""

    commit: str


Entry = bytes | Program | Link | Submodule | Mapping[str, "Entry"]


def bare_repo(path: Path) -> pygit2.Repository:
    """Make an empty bare repository whose HEAD is ``main``."""
    return pygit2.init_repository(str(path), bare=True, initial_head="main")


def add_commit(
    repo: pygit2.Repository,
    files: Mapping[str, Entry],
    *,
    branch: str | None = "main",
    parents: Sequence[str] = (),
) -> str:
    """Put a commit with exactly these files into ``repo``; names may hold ``/``."""
    tree = write_tree(repo, nested(files))
    ref = f"refs/heads/{branch}" if branch else None
    return str(repo.create_commit(ref, AUTHOR, AUTHOR, "a commit", tree, list(parents)))


def nested(files: Mapping[str, Entry]) -> dict[str, Entry]:
    """Turn ``a/b`` names into directories."""
    root: dict[str, Entry] = {}
    for name, entry in files.items():
        *directories, last = name.split("/")
        place = root
        for directory in directories:
            place = place.setdefault(directory, {})  # type: ignore[assignment]
        place[last] = entry
    return root


def write_tree(repo: pygit2.Repository, entries: Mapping[str, Entry]) -> pygit2.Oid:
    """Write a tree as git does, whatever its names are."""
    lines = [(name.encode("utf-8", "surrogateescape"), *_object(repo, e)) for name, e in
             entries.items()]  # fmt: skip
    # Git sorts directories as if their names ended in a slash.
    lines.sort(key=lambda line: line[0] + (b"/" if line[1] == 0o40000 else b""))
    return raw_tree(repo, lines)


def raw_tree(repo: pygit2.Repository, lines: Sequence[tuple[bytes, int, pygit2.Oid]]) -> pygit2.Oid:
    data = b"".join(b"%o %s\0" % (mode, name) + oid.raw for name, mode, oid in lines)
    return repo.write(ObjectType.TREE, data)


def _object(repo: pygit2.Repository, entry: Entry) -> tuple[int, pygit2.Oid]:
    match entry:
        case bytes():
            return 0o100644, repo.create_blob(entry)
        case Program(data):
            return 0o100755, repo.create_blob(data)
        case Link(target):
            return 0o120000, repo.create_blob(target)
        case Submodule(commit):
            return 0o160000, pygit2.Oid(hex=commit)
        case _:
            return 0o40000, write_tree(repo, entry)
