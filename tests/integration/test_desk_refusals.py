"""What a person at the desk reads who typed a wrong path: one sentence, and what to do."""

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.adapters.authoring.images import _reason
from agent.faces.cli import usb_update
from tests.authoring_desk import Workshop, workshop

pytestmark = pytest.mark.needs_ostree

CREATE = "bundle create rpi-lmp-42 new --tag main"
REPO = "--ostree-repo repo --ref main"
BUNDLE = f"{CREATE} --keys keys --hardware-id rpi {REPO}"
APP = f"{BUNDLE} --app"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    made = workshop(tmp_path)
    made.now = datetime.now(UTC).replace(microsecond=0)
    made.create()
    made.pack("ok.usbu")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "app").mkdir()
    (tmp_path / "app/docker-compose.yml").write_text("services: {web: {image: 'web:1'}}")
    commit = made.commit("2")
    (tmp_path / "repo/refs/heads/main").write_text(f"{commit}\n", encoding="ascii")
    return made


@pytest.mark.parametrize(
    ("typed", "sentence", "hint"),
    [
        ("keys init file", "keys cannot be written to 'file': Not a directory", ""),
        ("keys init keys", "'keys' is not empty", "new directory"),
        ("keys list", "'.' holds no factory's keys", "'usb-update keys init'"),
        ("factory init keys", "'keys' holds keys already", "--keep-keys"),
        (f"factory target add x-1 --tag a --hardware-id b {REPO}", "'.' is no factory", "init DIR"),
        (f"{CREATE} --keys empty", "'empty' holds no factory's keys", "'usb-update keys init'"),
        (f"{CREATE} --keys keys", "repository and a ref or commit", "--ostree-repo REPO"),
        (
            f"{CREATE} --keys keys {REPO}",
            "hardware ID of the devices is not given",
            "--hardware-id",
        ),
        (f"{CREATE} --keys keys --ostree-repo nope --ref x", "no OSTree repository 'nope'", "name"),
        (f"{CREATE} --keys keys --ostree-repo repo --ref x", "no commit 'x': Refspec", "refs"),
        (f"{APP} app --version -5 --image file", "'file' cannot be read as a tar", "docker save"),
        (f"{APP} nope", "App directory 'nope' cannot be read: No such file or directory\n", ""),
        (f"{BUNDLE} --version -5", "version -5 is not one of 0 to", ""),
        (f"{BUNDLE} --branch main", "--branch is of use with --factory-config only", ""),
        (f"{BUNDLE} --token-file t --roots keys", "--token-file, --roots: only for", "--factory"),
        (f"{BUNDLE} --server https://x", "--server: only for a bundle from a factory's", "--fact"),
        (
            (
                "bundle create x-1 new --factory a --tag b --token-file file --containers-git x "
                "--branch main"
            ),
            "--containers-git, --branch: only for a bundle that is made here",
            "",
        ),
        ("bundle create x-1 file --tag a --keys keys", "'file' is a file and no directory", "new"),
        ("bundle sign empty -k keys", "'empty/tuf' has no 'bundle-targets.json'", "holds 'tuf'"),
        ("bundle sign bundle -k nope", "'nope' cannot be read as a key archive: No such", ".tgz"),
        ("bundle show file", "'file': the file does not begin as a pack does", "bundle pack"),
        ("bundle verify bundle --roots keys", "'keys' holds no roots", "'ci' and 'prod'"),
        ("bundle pack bundle x.usbu --keys empty", "No such file or directory\n", "keys init"),
        ("bundle unpack file new", "'file': the file does not begin as a pack does", ""),
        ("stick doctor empty --roots nope", "'nope' holds no roots", "'ci' and 'prod'"),
        ("stick doctor empty --profile nope", "'nope' does not exist", "--profile"),
    ],
)
def test_a_wrong_word_is_answered_with_a_sentence(
    desk: Workshop, typed: str, sentence: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usb_update(typed.split()) == 1
    said = capsys.readouterr().err

    assert sentence in said
    assert hint in said
    assert "Errno" not in said
    assert "internal error" not in said
    assert not (desk.path / "new").exists()


def test_an_engine_that_is_not_there_is_told_by_the_innermost_reason() -> None:
    """The SDK wraps what the system says three times over."""
    gone = FileNotFoundError(2, "No such file or directory")
    aborted = ConnectionError("Connection aborted.", gone)
    wrapped = RuntimeError("Error while fetching server API version")
    wrapped.__context__ = aborted

    assert _reason(wrapped) == "No such file or directory"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that is full to the last byte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        (disk / "ballast").write_bytes(bytes(64 * 1024))
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.needs_root
@pytest.mark.parametrize(
    "act",
    [
        lambda where: usb_update(["keys", "init", f"{where}/keys"]),
        lambda where: usb_update(["factory", "init", f"{where}/factory"]),
        lambda where: usb_update(BUNDLE.replace(" new ", f" {where}/b ").split()),
        lambda where: usb_update(["bundle", "unpack", "ok.usbu", f"{where}/b"]),
        lambda where: usb_update(["bundle", "pack", "bundle", f"{where}/b.usbu", "--keys", "keys"]),
        lambda where: usb_update(["keys", "offline", f"{where}/safe", "--factory-dir", "keys"]),
    ],
    ids=["keys", "factory", "create", "unpack", "pack", "offline"],
)
@pytest.mark.usefixtures("desk")
def test_a_full_disk_is_answered_with_a_sentence(
    full_disk: Path, act: Callable[[Path], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert act(full_disk) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said or "free" in said or "needs" in said
    assert "Errno" not in said
    assert "internal error" not in said
