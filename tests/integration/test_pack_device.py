"""Packs on a device, by the commands a person types: real sysroot, real mounts."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.adapters import packfile, packs
from agent.adapters.medium import DirectoryMedium
from agent.adapters.packs import MAPPER, MOUNTPOINT
from agent.adapters.packs.medium import PackMedium, loop_device, open_words
from agent.core import authoring
from agent.core import pack as format_
from agent.core.bundle import Inventory
from agent.core.errors import PullError
from agent.core.pack import SealFacts
from agent.core.verity import Tree
from agent.services import pack
from tests.field import ROOT, Field, FieldDevice, no_engine
from tests.integration.test_exit_codes_cli import REFUSED, Case, a_garbled_list_of_targets
from tests.integration.test_pack import flip

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_ostree,
    pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="no mksquashfs here"),
]

CONTENT = {"usr/share/big": os.urandom(2_000_000)}  # four groups of blocks


def why_no_dm_verity() -> str | None:
    if shutil.which("veritysetup") is None or shutil.which("dmsetup") is None:
        return "no veritysetup or dmsetup here"
    known = subprocess.run(["dmsetup", "targets"], capture_output=True, text=True, check=False)
    return None if "verity" in known.stdout else "this kernel has no dm-verity"


def packed(field: Field, bundle: Path) -> Path:
    shop = field.workshop
    file = bundle.with_suffix(".usbu")
    pack.pack_bundle(shop.desk(), shop.packs(), bundle, file, shop.keys)
    return file


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def bundle(field: Field) -> Path:
    return field.bundle(2, files=CONTENT)


@pytest.fixture(scope="module")
def good(field: Field, bundle: Path) -> Path:
    return packed(field, bundle)


@pytest.fixture
def file(good: Path, tmp_path: Path) -> Path:
    """A pack on a stick of one's own."""
    (tmp_path / "stick").mkdir()
    return Path(shutil.copy(good, tmp_path / "stick/update.usbu"))


@pytest.fixture
def device(field: Field, tmp_path: Path) -> Iterator[FieldDevice]:
    """A device that has nothing open before and after."""
    made = field.device(tmp_path / "device")
    yield made
    assert_closed(made)


def assert_closed(device: FieldDevice) -> None:
    """Nothing is mounted, mapped, looped or copied any more."""
    assert not MOUNTPOINT.exists()
    assert not (MAPPER / packs.MAPPING).exists()
    assert not (device.storage / "usb-update" / packs.COPY).exists()
    loops = subprocess.run(
        ["losetup", "--list", "--noheadings", "-O", "BACK-FILE"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert packs.COPY not in loops
    assert ".usbu" not in loops


# --- all is well ----------------------------------------------------------------------


def test_a_pack_updates_a_device(device: FieldDevice, file: Path) -> None:
    found, done = device.check(file), device.install(file)
    assert (found.code, done.code) == (16, 100), done.stdout
    assert_closed(device)
    device.reboot()

    assert device.run().code == 0
    assert device.current()["target"] == "board-lmp-2"


def test_the_second_time_it_is_there_already(device: FieldDevice, file: Path) -> None:
    device.update(file)

    assert device.install(file).code == 0


def test_a_pack_and_its_bundle_are_one_content(
    device: FieldDevice, file: Path, bundle: Path, field: Field, tmp_path: Path
) -> None:
    other = field.device(tmp_path / "other")
    device.update(file)
    other.update(bundle)

    assert device.current() == other.current()
    assert device.device.deployed() == other.device.deployed()


def test_check_and_plan_open_nothing(device: FieldDevice, file: Path, tmp_path: Path) -> None:
    """Even an image that nothing holds of is no reason to look at it before it is wanted."""
    with file.open("r+b") as opened:
        opened.seek(packfile.read_header(file).seal.offset)
        opened.write(bytes(4096))
    shutil.copy(file, tmp_path / "stick/usb-update.USBU")

    assert device.check(file).code == 16
    told = device.usb_update("plan", tmp_path / "stick").stdout
    assert told.count("board-lmp-2 would be installed") == 2
    assert str(file) in device.usb_update("plan", file).stdout


def test_apps_come_out_of_a_pack(
    field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an engine: copied, checked by digest, and ready for the run."""
    for name, value in no_engine().items():
        monkeypatch.setenv(name, value)
    app = field.app("web")
    made = field.bundle(3, files=CONTENT, apps=[app], images=[field.image()])
    file = packed(field, made)
    device = field.device(tmp_path / "device", apps=True)
    done = device.install(file)

    assert done.code == 100, done.stdout + done.stderr
    blobs = device.storage / "reset-apps/blobs/sha256"
    assert {p.name for p in blobs.iterdir()} == {
        p.name for p in (made / "apps/blobs/sha256").iterdir()
    }
    assert_closed(device)


# --- the same answers as for a directory -----------------------------------------------


def sealed_as_it_is(field: Field, bundle: Path) -> Path:
    """Pack a bundle that the author's command would rather not pack."""
    shop = field.workshop
    documents = DirectoryMedium(bundle).read().metadata if (bundle / "tuf").exists() else {}
    (bundle / "ostree_repo").mkdir(exist_ok=True)
    content = Inventory(frozenset(map(commit_at, bundle.glob("ostree_repo/objects/*/*.commit"))))
    key = shop.desk().keys(shop.keys).online().targets

    def head(size: int, tree: Tree) -> bytes:
        facts = SealFacts(size, tree.root_hash, b"", content)
        seal = format_.issue_seal(facts, version=1, expires="2030-01-01T00:00:00Z")
        return format_.write_header(documents, authoring.sign(seal, (key,)))

    file = bundle.parent / f"{bundle.name}-as-it-is.usbu"
    file.unlink(missing_ok=True)
    shop.packs().write(bundle, file, b"", head)
    return file


def commit_at(file: Path) -> str:
    return file.parent.name + file.stem


IN_A_PACK = [case for case in REFUSED if case[0] is not a_garbled_list_of_targets]


@pytest.mark.parametrize(
    ("arrange", "code", "reason"), IN_A_PACK, ids=[f"{a.__name__}-{c}" for a, c, _ in IN_A_PACK]
)
def test_a_pack_answers_as_its_directory_does(  # noqa: PLR0917  fixtures and parameters, by name
    arrange: Callable[[Case], Path],
    code: int,
    reason: str,
    field: Field,
    device: FieldDevice,
    bundle: Path,
    tmp_path: Path,
) -> None:
    device.check(bundle)
    offered = sealed_as_it_is(field, arrange(Case(field, device, bundle, tmp_path)))
    device.check(offered)
    before = device.state()

    checked, installed = device.check(offered, "--json"), device.install(offered, "--json")

    assert (checked.code, installed.code) == (code, code)
    assert (checked.json["reason"], installed.json["reason"]) == (reason, reason)
    assert before == device.state()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda file: flip(file, file.read_bytes().index(b'"seal":') + 1), "pack_invalid"),
        (lambda file: flip(file, 3), "pack_invalid"),
        (lambda file: os.truncate(file, file.stat().st_size - 1), "pack_invalid"),
        (lambda file: os.truncate(file, 100), "pack_invalid"),
        (lambda file: os.truncate(file, 0), "pack_invalid"),
        (lambda file: os.truncate(file, file.stat().st_size + 4096), "pack_invalid"),
        (lambda file: reseal(file, "root_hash", "00" * 32), "bundle_signature"),
        (lambda file: reseal(file, "salt", ""), "bundle_signature"),
        (lambda file: reseal(file, "commits", []), "bundle_signature"),
    ],
)
def test_a_pack_that_is_not_as_it_was_sealed_is_15(
    device: FieldDevice, file: Path, change: Callable[[Path], object], reason: str
) -> None:
    device.check(file)
    before = device.state()
    change(file)
    checked, installed = device.check(file, "--json"), device.install(file, "--json")

    assert (checked.code, installed.code) == (15, 15)
    assert (checked.json["reason"], installed.json["reason"]) == (reason, reason)
    assert device.state() == before


def reseal(file: Path, member: str, value: object) -> None:
    """Change what the seal says; its signature stays."""
    header = packfile.read_header(file)
    seal = json.loads(header.seal.document)
    seal["signed"]["x-usb-update-pack"][member] = value
    rest = file.read_bytes()[header.seal.offset :]
    file.write_bytes(format_.write_header(header.documents, json.dumps(seal).encode()) + rest)


# --- a stick that changes under us -----------------------------------------------------


def test_a_changed_block_is_50_and_the_next_attempt_works(device: FieldDevice, file: Path) -> None:
    device.check(file)
    before = device.state()
    position = packfile.read_header(file).seal.offset + 1_000_000
    flip(file, position)
    refused = device.install(file, "--json")

    assert refused.code == 50
    assert "not the one that was signed" in refused.json["message"]
    assert device.state() == before
    assert_closed(device)

    flip(file, position)
    assert device.install(file).code == 100


def test_a_stick_that_changes_during_the_install_is_50(device: FieldDevice, file: Path) -> None:
    """The header was verified, the first blocks were copied; then the file is another."""
    header = packfile.read_header(file)
    medium = PackMedium(file, packs.places(device.storage))
    told: list[int] = []

    def change(_step: str, done: int, _total: int) -> None:
        if not told:
            flip(file, header.seal.offset + header.facts.size - 5000)
        told.append(done)

    with pytest.raises(PullError, match="not the one that was signed"):
        medium.opened(header.facts.image(header.seal.offset), change).__enter__()
    assert told
    assert not (device.storage / packs.COPY).exists()


def test_once_mounted_the_stick_may_say_what_it_likes(device: FieldDevice, file: Path) -> None:
    """Without dm-verity: what is read is the copy, whatever the stick has become."""
    header = packfile.read_header(file)
    medium = PackMedium(file, packs.places(device.storage))
    with medium.opened(header.facts.image(header.seal.offset), lambda *_: None) as content:
        file.write_bytes(b"")
        objects = [path for path in content.ostree_repo.rglob("*.filez") if path.read_bytes()]
        flags = os.statvfs(content.ostree_repo).f_flag
        named = (device.storage / packs.COPY).exists()

    assert objects
    assert not named
    for flag in (os.ST_RDONLY, os.ST_NOSUID, os.ST_NODEV, os.ST_NOEXEC):
        assert flags & flag


def test_too_little_space_is_50_before_anything_is_copied(
    device: FieldDevice, file: Path, tmp_path: Path
) -> None:
    device.check(file)
    ledger = device.storage / "usb-update"
    kept = shutil.copytree(ledger, tmp_path / "kept")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", ledger], check=True)
    try:
        shutil.copytree(kept, ledger, dirs_exist_ok=True)
        answer = device.install(file, "--json")
        left = (ledger / packs.COPY).exists()
    finally:
        subprocess.run(["umount", ledger], check=True)

    assert (answer.code, answer.json["reason"], left) == (50, "no_space", False)


# --- cut short ------------------------------------------------------------------------

KILLED = """\
import os, sys
from pathlib import Path
from agent.adapters import packfile, packs
from agent.adapters.packs.medium import PackMedium, loop_device, open_words
file, ledger, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
header = packfile.read_header(file)
image = header.facts.image(header.seal.offset)
def told(*_):
    if when == "copying":
        os.kill(os.getpid(), 9)
with PackMedium(file, packs.places(ledger)).opened(image, told):
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("when", ["copying", "open"])
def test_what_a_killed_process_left_open_is_closed(
    device: FieldDevice, file: Path, when: str
) -> None:
    device.check(file)
    ledger = device.storage / "usb-update"
    argv = [sys.executable, "-c", KILLED, str(file), str(ledger), when]
    killed = subprocess.run(argv, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert os.path.ismount(MOUNTPOINT) == (when == "open")
    assert (ledger / packs.COPY).exists() == (when == "copying")

    packs.clear(packs.places(ledger))
    assert_closed(device)

    subprocess.run(argv, cwd=ROOT, check=False)
    assert device.install(file).code == 100


# --- dm-verity ------------------------------------------------------------------------

needs_dm_verity = pytest.mark.skipif(why_no_dm_verity() is not None, reason=str(why_no_dm_verity()))


@pytest.mark.skipif(shutil.which("veritysetup") is None, reason="no veritysetup here")
def test_what_the_kernel_would_be_told_is_what_the_file_holds(file: Path) -> None:
    """The same window and the same words, judged by ``veritysetup verify`` in user space."""
    header = packfile.read_header(file)
    image = header.facts.image(header.seal.offset)

    def judged() -> int:
        loop = loop_device(file, image)
        try:
            words = open_words(loop, image)
            words[words.index("open")] = "verify"
            words.remove(packs.MAPPING)
            return subprocess.run(words, capture_output=True, check=False).returncode
        finally:
            subprocess.run(["losetup", "--detach", loop], check=True)

    assert judged() == 0
    flip(file, header.seal.offset + image.size - 1)
    assert judged() != 0


@needs_dm_verity
def test_the_kernel_verifies_where_it_can(device: FieldDevice, file: Path) -> None:
    header = packfile.read_header(file)
    medium = PackMedium(file, packs.places(device.storage))
    with medium.opened(header.facts.image(header.seal.offset), lambda *_: None) as content:
        assert (MAPPER / packs.MAPPING).exists()
        assert not (device.storage / packs.COPY).exists()
        assert list(content.ostree_repo.rglob("*.filez"))
    assert_closed(device)

    assert device.install(file).code == 100


@needs_dm_verity
def test_the_kernel_refuses_a_changed_block(device: FieldDevice, file: Path) -> None:
    device.check(file)
    before = device.state()
    flip(file, packfile.read_header(file).seal.offset + 1_000_000)

    assert device.install(file).code == 50
    assert device.state() == before
    assert_closed(device)
