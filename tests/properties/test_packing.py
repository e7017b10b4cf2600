"""An App's archive depends on its files alone: not on who holds them, nor in which order."""

import posixpath
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.adapters.authoring.directory import DirectoryApp
from agent.adapters.authoring.packing import pack
from agent.adapters.gitsource import open_revision
from agent.core.appfiles import AppFile, AppSource, leads_inside
from tests.git_repos import Entry, Link, Program, add_commit, bare_repo

COMPOSE = b"services: {}\n"

NAMES = st.text("abcAB.-_ ~", min_size=1, max_size=4).filter(
    lambda name: name.strip(". ~") and name.lower() not in (".git", "git~1")
)
LEAVES = st.one_of(
    st.binary(max_size=40), st.builds(Program, st.binary(max_size=9)), st.just(Link(b"a"))
)
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, min_size=1, max_size=4),
    lambda inner: st.dictionaries(NAMES, st.one_of(LEAVES, inner), min_size=1, max_size=4),
    max_leaves=12,
)


@dataclass(frozen=True)
class Shuffled:
    """An App whose files come in the order that ``key`` gives."""

    app: AppSource
    seed: int

    @property
    def name(self) -> str:
        return self.app.name

    @property
    def where(self) -> str:
        return self.app.where

    def files(self) -> Iterator[AppFile]:
        yield from sorted(self.app.files(), key=lambda f: hash((f.name, self.seed)))

    def read(self, name: str, limit: int) -> bytes | None:
        return self.app.read(name, limit)

    def image(self, text: str) -> str:
        return text


def write(path: Path, entries: dict[str, Entry]) -> None:
    """Put the same files into a directory, as whoever edits them there would."""
    path.mkdir()
    for name, entry in reversed(entries.items()):
        match entry:
            case bytes():
                (path / name).write_bytes(entry)
                (path / name).chmod(0o604)
            case Program(data):
                (path / name).write_bytes(data)
                (path / name).chmod(0o711)
            case Link(target):
                (path / name).symlink_to(target.decode())
            case dict():
                write(path / name, entry)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, st.integers())
def test_a_commit_and_a_directory_give_the_same_app(tree: dict[str, Entry], seed: int) -> None:
    files = {**tree, "docker-compose.yml": COMPOSE}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        add_commit(bare_repo(place / "repo"), {"shop": files})
        write(place / "shop", files)
        (app,) = open_revision(str(place / "repo")).apps()
        sources = (app, DirectoryApp(place / "shop"), Shuffled(app, seed))
        packed = [pack(s, COMPOSE, place / f"{n}.tgz") for n, s in enumerate(sources)]

        assert len({p.path.read_bytes() for p in packed}) == 1
        assert len({(p.descriptor, p.index) for p in packed}) == 1


PARTS = st.sampled_from(["a", "b", "..", ".", "", "c d"])


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.lists(PARTS, max_size=6))
def test_a_link_that_leads_inside_does(name: list[str], target: list[str]) -> None:
    link, at = "/".join(target), "/".join(name)
    end = posixpath.normpath(posixpath.join("app", posixpath.dirname(at), link))

    if leads_inside(at, link):
        assert not link.startswith("/")
        assert end == "app" or end.startswith("app/")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.integers(0, 3))
def test_a_link_may_climb_to_the_apps_own_root(name: list[str], climbs: int) -> None:
    inside = climbs <= len(name) - 1

    assert leads_inside("/".join(name), "../" * climbs + "x") == inside
