"""A hostile or careless stick meets `DirectoryMedium`."""

import errno
import os
import socket
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.adapters import medium as medium_module
from agent.adapters.medium import DirectoryMedium
from agent.core.errors import (
    BundleMetadataInvalidError,
    MetadataInvalidError,
    MetadataNotFoundError,
    PullError,
)
from agent.core.verify import limit_of
from tests.contract.medium_contract import COMMIT, TARGET, URI

NAMES = ("3.root.json", "timestamp.json", "snapshot.json", "targets.json", "bundle-targets.json")


@pytest.fixture
def stick(tmp_path):
    (tmp_path / "stick/tuf").mkdir(parents=True)
    return tmp_path / "stick"


def link(path):
    path.symlink_to("/etc/shadow")


def dangling_link(path):
    path.symlink_to("/nowhere")


def fifo(path):
    os.mkfifo(path)


def directory(path):
    path.mkdir()


def unix_socket(path):
    """Bind where the name is short, then move: an address holds 108 characters."""
    with tempfile.TemporaryDirectory() as short:
        with closing(socket.socket(socket.AF_UNIX)) as s:
            s.bind(f"{short}/s")
        Path(short, "s").rename(path)


def refusal(name):
    return BundleMetadataInvalidError if name.startswith("bundle") else MetadataInvalidError


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [link, dangling_link, fifo, directory, unix_socket])
def test_metadata_that_is_no_regular_file_is_refused_by_name(stick, name, make):
    make(stick / "tuf" / name)

    with pytest.raises(refusal(name), match=f"{name}' is not a regular file"):
        DirectoryMedium(stick).read()


@pytest.mark.parametrize("name", NAMES)
def test_metadata_of_exactly_its_limit_is_read_and_one_byte_more_is_refused(stick, name):
    file = stick / "tuf" / name
    limit = limit_of(name)
    file.write_bytes(b" " * limit)
    whole = DirectoryMedium(stick).read().metadata[name]
    with file.open("ab") as f:
        f.write(b" ")

    with pytest.raises(refusal(name), match=rf"{name}' has more than {limit} bytes"):
        DirectoryMedium(stick).read()

    assert len(whole) == limit


def test_a_four_gigabyte_document_is_refused_unread(stick):
    with (stick / "tuf/targets.json").open("wb") as f:
        f.truncate(4 << 30)

    with pytest.raises(MetadataInvalidError, match=r"targets\.json"):
        DirectoryMedium(stick).read()


def test_many_large_documents_are_refused_together(stick):
    for version in range(1, 6):
        (stick / f"tuf/{version}.targets.json").write_bytes(b" " * limit_of("targets.json"))

    with pytest.raises(MetadataInvalidError, match="together"):
        DirectoryMedium(stick).read()


def test_a_thousand_roots_are_read_and_one_more_is_refused(stick):
    for version in range(1, 1001):
        (stick / f"tuf/{version}.root.json").write_bytes(b"{}")
    read = len(DirectoryMedium(stick).read().metadata)
    (stick / "tuf/1001.root.json").write_bytes(b"{}")

    with pytest.raises(MetadataInvalidError, match="1001 roots"):
        DirectoryMedium(stick).read()

    assert read == 1000


def test_a_tuf_full_of_junk_is_refused(stick, monkeypatch):
    monkeypatch.setattr(medium_module, "TUF_ENTRIES_LIMIT", 20)
    for number in range(21):
        (stick / f"tuf/junk{number}").touch()

    with pytest.raises(MetadataInvalidError, match="more than 20 entries"):
        DirectoryMedium(stick).read()


@pytest.mark.parametrize("make", [link, fifo, unix_socket, lambda path: path.touch()])
def test_a_tuf_that_is_no_directory_holds_no_metadata(tmp_path, make):
    make(tmp_path / "tuf")

    with pytest.raises(MetadataNotFoundError):
        DirectoryMedium(tmp_path).read()


def test_a_tuf_that_links_to_a_good_one_holds_no_metadata(stick, tmp_path):
    (stick / "tuf/timestamp.json").write_bytes(b"{}")
    other = tmp_path / "other"
    other.mkdir()
    (other / "tuf").symlink_to(stick / "tuf")

    with pytest.raises(MetadataNotFoundError):
        DirectoryMedium(other).read()


@pytest.mark.parametrize("linked", ["ostree_repo", "ostree_repo/objects", "ostree_repo/objects/aa"])
def test_a_commit_behind_a_link_is_not_there(stick, tmp_path, linked):
    real = tmp_path / "real"
    (real / "ostree_repo/objects/aa").mkdir(parents=True)
    (real / "ostree_repo/objects/aa" / f"{COMMIT[2:]}.commit").touch()
    (stick / linked).parent.mkdir(parents=True, exist_ok=True)
    (stick / linked).symlink_to(real / linked)

    assert DirectoryMedium(stick).inventory([TARGET]).commits == frozenset()


@pytest.mark.parametrize("make", [link, fifo, directory])
def test_a_commit_object_that_is_no_regular_file_is_not_there(stick, make):
    objects = stick / "ostree_repo/objects/aa"
    objects.mkdir(parents=True)
    make(objects / f"{COMMIT[2:]}.commit")

    assert DirectoryMedium(stick).inventory([TARGET]).commits == frozenset()


def store_with_shop(stick, text=URI):
    app = stick / "apps/apps/shop" / ("c" * 64)
    app.mkdir(parents=True)
    (app / "uri").write_text(text)
    return stick / "apps/apps"


def test_what_macos_leaves_in_an_app_store_hides_no_app(stick):
    store = store_with_shop(stick)
    for stray in (store / ".DS_Store", store / "._shop", store / "shop/._x", store / "stray"):
        stray.write_bytes(b"x")
    (store / "._dir/x").mkdir(parents=True)

    assert DirectoryMedium(stick).inventory([TARGET]).app_uris == {URI}


def test_a_uri_with_a_newline_is_missing_and_the_log_says_what_to_do(stick):
    store_with_shop(stick, URI + "\n")

    with capture_logs() as logs:
        found = DirectoryMedium(stick).inventory([TARGET]).app_uris

    assert found == frozenset()
    assert logs[0]["event"] == "app_uri.ignored"
    assert "newline" in logs[0]["hint"]


@pytest.mark.parametrize("make", [link, fifo, directory, unix_socket])
def test_a_uri_that_is_no_regular_file_is_missing(stick, make):
    store = store_with_shop(stick)
    (store / "shop" / ("c" * 64) / "uri").unlink()
    make(store / "shop" / ("c" * 64) / "uri")

    assert DirectoryMedium(stick).inventory([TARGET]).app_uris == frozenset()


def test_a_uri_without_end_is_missing(stick):
    store_with_shop(stick, URI * 20)

    assert DirectoryMedium(stick).inventory([TARGET]).app_uris == frozenset()


@pytest.mark.parametrize("linked", ["apps", "apps/apps", "apps/apps/shop"])
def test_an_app_behind_a_link_is_missing(stick, tmp_path, linked):
    store_with_shop(tmp_path / "real")
    (stick / linked).parent.mkdir(parents=True, exist_ok=True)
    (stick / linked).symlink_to(tmp_path / "real" / linked)

    assert DirectoryMedium(stick).inventory([TARGET]).app_uris == frozenset()


def test_an_app_store_without_end_is_left_with_a_warning(stick, monkeypatch):
    monkeypatch.setattr(medium_module, "STORE_ENTRIES_LIMIT", 10)
    store = store_with_shop(stick)
    for number in range(11):
        (store / f"zz{number}").mkdir()

    with capture_logs() as logs:
        found = DirectoryMedium(stick).inventory([TARGET]).app_uris

    assert found == frozenset()
    assert logs[0]["event"] == "app_store.unreadable"


@pytest.mark.parametrize("missing", ["ostree_repo", "apps"])
def test_content_on_a_stick_that_was_pulled_out_is_not_called_missing(stick, monkeypatch, missing):
    """Attack: a stick that goes while it is looked at."""
    store_with_shop(stick)
    opened = medium_module.sticktree.open_directories

    def pulled(first, *below):
        if Path(first).name == missing:
            raise OSError(errno.EIO, "Input/output error")
        return opened(first, *below)

    monkeypatch.setattr(medium_module.sticktree, "open_directories", pulled)

    with pytest.raises(PullError, match="cannot be read: Input/output error"):
        DirectoryMedium(stick).inventory([TARGET])


def test_the_bundle_itself_may_be_reached_by_a_link(stick, tmp_path):
    """The person who types ``--src-dir`` chose it."""
    (stick / "tuf/timestamp.json").write_bytes(b"{}")
    (tmp_path / "link").symlink_to(stick)

    assert DirectoryMedium(tmp_path / "link").read().metadata == {"timestamp.json": b"{}"}
