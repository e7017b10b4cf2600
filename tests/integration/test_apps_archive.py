"""App archives: what comes out of them, and what is refused."""

import gzip
import stat
import tarfile
from pathlib import Path

import pytest

from agent.adapters.apps import archive
from agent.core.errors import ComposeInvalidError
from tests.app_store import Member, regular, special, tar_of_members, tgz

COMPOSE = regular("docker-compose.yml", b"services: {}\n")


def packed(tmp_path: Path, *members: Member) -> Path:
    path = tmp_path / "app.tgz"
    path.write_bytes(tgz(tar_of_members([COMPOSE, *members])))
    return path


def unpacked(tmp_path: Path, *members: Member) -> Path:
    project = tmp_path / "project"
    project.mkdir(exist_ok=True)
    archive.unpack(packed(tmp_path, *members), project, "web")
    return project


def link(name: str, target: str) -> Member:
    return special(name, tarfile.SYMTYPE, target=target)


HOSTILE: dict[str, list[Member]] = {
    "an absolute path": [regular("/etc/cron.d/evil")],
    "a path with ..": [regular("a/../../evil")],
    "a path that is ..": [regular("..")],
    "a control character": [regular("a\nb")],
    "a backslash": [regular("a\\..\\b")],
    "a file without a name": [regular("./")],
    "a deep path": [regular("/".join("d" * 65))],
    "a long component": [regular("n" * 256)],
    "our own temporary name": [regular("a/.usb-update-unpacking")],
    "an absolute link": [link("a", "/etc/passwd")],
    "a link to the parent": [link("a", "..")],
    "a link above the project": [link("d/a", "../../etc")],
    "a link that comes back": [link("a", "../project/b")],
    "a link with .. in the middle": [link("d/e/a", "../x/../../..")],
    "a link with .. after a name": [link("d/a", "x/../../..")],
    "an empty link": [link("a", "")],
    "a link in place of the project": [link(".", "etc")],
    "a file through a link": [link("d", "e"), regular("d/x")],
    "a file below a file": [regular("d"), regular("d/x")],
    "a directory named twice, once as a link": [
        special("d", tarfile.DIRTYPE),
        link("d", "e"),
    ],
    "a hard link": [special("a", tarfile.LNKTYPE, target="docker-compose.yml")],
    "a hard link outside": [special("a", tarfile.LNKTYPE, target="/etc/shadow")],
    "a FIFO": [special("a", tarfile.FIFOTYPE)],
    "a character device": [special("a", tarfile.CHRTYPE)],
    "a block device": [special("a", tarfile.BLKTYPE)],
    "a contiguous file": [special("a", tarfile.CONTTYPE)],
    "a type nobody knows": [special("a", b"Z")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_entry_refuses_the_whole_archive(tmp_path: Path, members: list[Member]) -> None:
    path = packed(tmp_path, *members)

    with pytest.raises(ComposeInvalidError):
        archive.read_compose(path, "web")


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_entry_writes_nothing_outside(tmp_path: Path, members: list[Member]) -> None:
    """Unpacking does not rely on an earlier look."""
    with pytest.raises(ComposeInvalidError):
        unpacked(tmp_path, *members)

    assert {"app.tgz", "project"} == {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not gzip",
        gzip.compress(b""),
        gzip.compress(b"not a tar" * 100),
        tar_of_members([COMPOSE]),
        tgz(tar_of_members([COMPOSE]))[:-4],
        tgz(tar_of_members([COMPOSE, regular("big", bytes(100_000))])[:20_000]),
        tgz(tar_of_members([regular("other", b"")])),
    ],
    ids=[
        "empty",
        "no gzip",
        "empty gzip",
        "no tar",
        "not compressed",
        "cut in the checksum",
        "cut in an entry",
        "no compose file",
    ],
)
def test_what_is_no_archive_of_an_app_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "app.tgz"
    path.write_bytes(data)

    with pytest.raises(ComposeInvalidError):
        archive.read_compose(path, "web")


def test_a_flipped_bit_of_the_contents_is_noticed(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(tar_of_members([COMPOSE, regular("a", bytes(2000))]), 0))
    data[1800] ^= 1
    path = tmp_path / "app.tgz"
    path.write_bytes(bytes(data))

    with pytest.raises(ComposeInvalidError, match="CRC"):
        archive.read_compose(path, "web")


def test_a_header_that_claims_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    header.size = 2 * 1024**3
    path = tmp_path / "app.tgz"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20), 1))

    with pytest.raises(ComposeInvalidError, match="header"):
        archive.read_compose(path, "web")


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "UNPACKED_LIMIT_BYTES", 1 << 20)
    path = packed(tmp_path, regular("bomb", bytes(2 << 20)))

    with pytest.raises(ComposeInvalidError, match="unpacks to more than"):
        archive.read_compose(path, "web")


def test_an_archive_of_too_many_entries_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ENTRIES_LIMIT", 10)
    path = packed(tmp_path, *(regular(f"f{n}") for n in range(10)))

    with pytest.raises(ComposeInvalidError, match="more than 10 entries"):
        archive.read_compose(path, "web")


def test_many_nested_headers_are_refused(tmp_path: Path) -> None:
    """A chain of extended headers makes `tarfile` call itself until Python stops it."""
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    path = tmp_path / "app.tgz"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) * 5000))

    with pytest.raises(ComposeInvalidError):
        archive.read_compose(path, "web")


def test_a_compose_file_of_more_than_a_mebibyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "app.tgz"
    path.write_bytes(tgz(tar_of_members([regular("docker-compose.yml", b"#" * (1024 * 1024 + 1))])))

    with pytest.raises(ComposeInvalidError, match="more than 1048576"):
        archive.read_compose(path, "web")


def test_links_that_stay_inside_are_made(tmp_path: Path) -> None:
    project = unpacked(
        tmp_path,
        regular("etc/real", b"1"),
        link("etc/same", "real"),
        link("a/b/up", "../../etc/real"),
    )

    assert b"1" == (project / "etc/same").read_bytes() == (project / "a/b/up").read_bytes()


def test_mode_bits_that_reach_further_are_dropped(tmp_path: Path) -> None:
    project = unpacked(
        tmp_path,
        special("d", tarfile.DIRTYPE, mode=0o7777),
        regular("d/program", mode=0o6777),
        regular("d/secret", mode=0o600),
    )

    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (project, *project.rglob("*"))}
    assert {"d": 0o755, "program": 0o755, "secret": 0o600} == {
        name: modes[name] for name in ("d", "program", "secret")
    }


def test_files_the_app_made_itself_stay(tmp_path: Path) -> None:
    project = unpacked(tmp_path, regular("conf/a", b"1"))
    (project / "data").mkdir()
    (project / "data/db").write_bytes(b"precious")
    (project / "conf/own").write_bytes(b"too")

    unpacked(tmp_path, regular("conf/a", b"2"))

    assert (b"2", b"precious", b"too") == (
        (project / "conf/a").read_bytes(),
        (project / "data/db").read_bytes(),
        (project / "conf/own").read_bytes(),
    )


def test_a_link_that_a_container_left_is_not_followed(tmp_path: Path) -> None:
    """What runs in a container may write into the project; the next update runs as root."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"untouched")
    project = tmp_path / "project"
    project.mkdir()
    (project / "conf").symlink_to(outside)
    (project / "b").symlink_to(outside / "a")
    (project / ".usb-update-unpacking").symlink_to(outside / "a")

    unpacked(tmp_path, regular("conf/a", b"new"), regular("b", b"new"))

    assert b"untouched" == (outside / "a").read_bytes()
    assert (b"new", b"new") == ((project / "conf/a").read_bytes(), (project / "b").read_bytes())
    assert not (project / "conf").is_symlink()


def test_files_are_not_removed_through_a_link_either(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"untouched")
    project = tmp_path / "project"
    project.mkdir()
    (project / "conf").symlink_to(outside)

    archive.remove_files(project, ["conf/a", "../outside/a", "/etc/hostname-of-nobody"])

    assert (outside / "a").exists()


def test_removing_files_removes_the_directories_they_leave_empty(tmp_path: Path) -> None:
    project = unpacked(tmp_path, regular("a/b/c"), regular("d/e"))
    (project / "d/own").write_bytes(b"")

    archive.remove_files(project, ["a/b/c", "d/e"])

    assert {"docker-compose.yml", "d", "own"} == {path.name for path in project.rglob("*")}


def test_an_empty_directory_in_the_way_of_a_file_gives_way(tmp_path: Path) -> None:
    """Docker makes one of a bind mount's missing source."""
    (tmp_path / "project/app.conf").mkdir(parents=True)

    project = unpacked(tmp_path, regular("app.conf", b"1"))

    assert b"1" == (project / "app.conf").read_bytes()


def test_an_unchanged_file_keeps_its_inode(tmp_path: Path) -> None:
    """A container that has it mounted goes on seeing the file that people see."""
    project = unpacked(tmp_path, regular("a", b"1"), regular("b", b"1"))
    before = {name: (project / name).stat().st_ino for name in ("a", "b")}
    path = packed(tmp_path, regular("a", b"1"), regular("b", b"2"))

    done = archive.unpack(path, project, "web")

    assert frozenset({"b"}) == done.changed
    assert before["a"] == (project / "a").stat().st_ino
