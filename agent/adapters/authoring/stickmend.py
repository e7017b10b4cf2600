"""Look for what hides or spoils a bundle on a stick, and mend what is harmless to mend.

Only two things are ever changed: files that macOS or Windows left among the Apps are
removed, and a ``uri`` loses its line end. Nothing is reached through a link.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agent.adapters import files, sticktree
from agent.adapters.authoring import examine
from agent.adapters.authoring.stickfiles import write_through
from agent.core.authoring import AuthoringError
from agent.core.stickplan import JUNK

DEEP_SEARCH_DEPTH = 6  # directories below the stick's root that may be opened
DEEP_ENTRIES_LIMIT = 50_000  # entries looked at; a stick full of photographs has as many
URI_LIMIT_BYTES = 2048


def deep_bundles(mountpoint: Path) -> tuple[Path, ...]:
    """Return directories that look like bundles, however deep they lie, within bounds."""
    found: list[Path] = []
    budget = sticktree.Budget(DEEP_ENTRIES_LIMIT)
    with suppress(sticktree.TooMuchError):
        _search(mountpoint.resolve(), budget, DEEP_SEARCH_DEPTH, found)
    return tuple(sorted(found))


def _search(here: Path, budget: sticktree.Budget, depth: int, found: list[Path]) -> None:
    try:
        with sticktree.open_directory(here) as fd:
            listed = [e for e in sticktree.entries(fd, budget, here) if sticktree.is_directory(e)]
    except (OSError, sticktree.NotPlainError):
        return
    names = {entry.name for entry in listed}
    if "tuf" in names:
        found.append(here)
    elif depth:
        for name in sorted(names):
            _search(here / name, budget, depth - 1, found)


def mend(bundle: Path) -> tuple[str, ...]:
    """Remove junk among the Apps and line ends in ``uri``; return what was done.

    Raises:
        AuthoringError: the stick cannot be written.
    """
    try:
        return (*_without_junk(bundle), *_without_line_ends(bundle))
    except (OSError, sticktree.NotPlainError, files.NotRegularError, files.TooLargeError) as e:
        raise AuthoringError(f"'{bundle}' cannot be mended: {files.why(e, bundle)}") from e


def _without_junk(bundle: Path) -> Iterator[str]:
    for path in [path for path in examine.stray_files(bundle) if JUNK.fullmatch(path.name)]:
        with sticktree.open_directories(bundle, "apps", "apps") as fd:
            os.unlink(path.name, dir_fd=fd)  # a link itself, not what it leads to
        yield f"removed '{path}'"


def _without_line_ends(bundle: Path) -> Iterator[str]:
    for uri in list(examine.long_uris(bundle)):
        steps = uri.relative_to(bundle).parent.parts
        with sticktree.open_directories(bundle, *steps) as fd:
            here = Path(f"/proc/self/fd/{fd}")
            text = files.read_bounded(here / "uri", limit=URI_LIMIT_BYTES)
            write_through(here / ".uri.new", text.strip())
            (here / ".uri.new").replace(here / "uri")
            os.fsync(fd)
        yield f"took the line end off '{uri}'"
