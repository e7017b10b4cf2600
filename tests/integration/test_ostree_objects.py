"""OSTree's objects as `objects` reads them, against what ``ostree`` says of the same."""

import contextlib
import io
import os
import re
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.adapters.authoring import objects
from agent.adapters.authoring.commits import OstreeCommits, damaged_objects
from agent.core.authoring import AuthoringError
from tests.ostree_device import archive_repo, content_objects, ostree

pytestmark = pytest.mark.needs_ostree


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with what may be odd: links, empty ones, many, long names, large files."""
    base = tmp_path_factory.mktemp("objects")
    tree = base / "tree"
    (tree / "many").mkdir(parents=True)
    (tree / "empty").mkdir()
    (tree / "deep/er/still").mkdir(parents=True)
    for number in range(300):
        (tree / "many" / f"file-with-a-long-name-{number}").write_text(f"{number}\n")
    (tree / "deep/er/still/none").write_bytes(b"")
    (tree / "link").symlink_to("target")
    (tree / "long-link").symlink_to("x" * 240)
    (tree / "program").write_text("#!/bin/sh\n")
    (tree / "program").chmod(0o755)
    (tree / "zeros").write_bytes(bytes(5_000_000))
    (tree / "random").write_bytes(os.urandom(3_000_000))
    os.setxattr(tree / "program", "user.long", b"y" * 300)
    made = archive_repo(base / "repo")
    ostree("commit", f"--repo={made}", "-b", "main", f"--tree=dir={tree}")
    ostree("commit", f"--repo={made}", "-b", "empty", f"--tree=dir={tree / 'empty'}")
    return made


def listed(repo: Path, commit: str) -> set[str]:
    """The objects of a commit, as ``ostree ls`` has them."""
    found = {f"{commit}.commit"}
    for line in ostree("ls", "-R", "-C", f"--repo={repo}", commit, "/").splitlines():
        sums = re.findall(r" ([0-9a-f]{64})(?= )", line)
        kinds = ("dirtree", "dirmeta") if line.startswith("d") else ("file",)
        found |= {f"{checksum}.{kind}" for checksum, kind in zip(sums, kinds, strict=True)}
    return found


@pytest.mark.parametrize("ref", ["main", "empty"])
def test_a_commit_needs_what_ostree_lists(repo: Path, ref: str) -> None:
    commit = ostree("rev-parse", f"--repo={repo}", ref).strip()
    names = list(objects.reachable(repo, commit, checked=True))

    assert len(names) == len(set(names))
    assert set(names) == listed(repo, commit)


def test_every_file_has_its_checksum_for_a_name(repo: Path) -> None:
    found = content_objects(repo)
    for path in found:
        with path.open("rb", buffering=0) as file:
            assert objects.file_checksum(file) == f"{path.parent.name}{path.stem}"
    assert len(found) > 300


@pytest.mark.parametrize("mode", ["archive", "bare-user"])
def test_a_copy_is_what_ostree_accepts(repo: Path, tmp_path: Path, mode: str) -> None:
    source = tmp_path / "source"
    ostree("init", f"--repo={source}", f"--mode={mode}")
    commit = ostree("rev-parse", f"--repo={repo}", "main").strip()
    ostree("pull-local", f"--repo={source}", repo, commit)
    seen: list[tuple[int, int]] = []
    OstreeCommits(source).copy(commit, tmp_path / "copy", lambda _, *n: seen.append(n))

    assert seen[-1][0] == seen[-1][1] > 0
    assert set(objects.reachable(tmp_path / "copy", commit)) == listed(repo, commit)
    assert not damaged_objects(tmp_path / "copy", [commit], lambda *_: None)
    assert not [p for p in content_objects(tmp_path / "copy") if p.stat().st_nlink > 1]
    subprocess.run(["ostree", "fsck", "--quiet", f"--repo={tmp_path / 'copy'}"], check=True)


def test_a_damaged_source_is_found_while_it_is_copied(repo: Path, tmp_path: Path) -> None:
    commit = ostree("rev-parse", f"--repo={repo}", "main").strip()
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", repo, source], check=True)
    victim = content_objects(source)[7]
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    with pytest.raises(AuthoringError, match=f"{victim.stem}.* is damaged"):
        OstreeCommits(source).copy(commit, tmp_path / "copy", lambda *_: None)

    assert not list((tmp_path / "copy/objects").glob("*/*.commit"))
    assert damaged_objects(source, [commit], lambda *_: None)


@pytest.mark.parametrize("kind", ["filez", "dirtree", "dirmeta", "commit"])
def test_what_is_missing_is_named(repo: Path, tmp_path: Path, kind: str) -> None:
    commit = ostree("rev-parse", f"--repo={repo}", "main").strip()
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", repo, source], check=True)
    needed = [n for n in objects.reachable(source, commit) if n.endswith(kind.removesuffix("z"))]
    objects.object_path(source, needed[-1] + ("z" if kind == "filez" else "")).unlink()

    problems = damaged_objects(source, [commit], lambda *_: None)
    assert needed[-1] in problems[0]
    with pytest.raises(AuthoringError, match=needed[-1]):
        OstreeCommits(source).copy(commit, tmp_path / "copy", lambda *_: None)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_tree_or_refused(data: bytes) -> None:
    with contextlib.suppress(AuthoringError):
        tree = objects.read_tree(data, "a tree")
        assert len(tree.files) + len(tree.directories) <= len(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_file_under_a_false_name(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        objects.demand_intact(f"{'0' * 64}.file", io.BytesIO(data))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_changed_byte_is_found(repo: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(content_objects(repo)[:50]))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    name = f"{path.parent.name}{path.stem}"
    try:
        objects.demand_intact(f"{name}.file", io.BytesIO(bytes(content)))
    except ValueError:
        return
    # The length of the content, four zeros, and spare bits of the packing are not named.
    begin = objects.PREFIX_BYTES + int.from_bytes(content[:4], "big")
    was = path.read_bytes()
    assert at < 16 or unpacked(content[begin:]) == unpacked(was[begin:])


def unpacked(data: bytes) -> bytes:
    return zlib.decompress(data, -zlib.MAX_WBITS) if data else b""
