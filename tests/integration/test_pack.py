"""Packs at an author's desk: real keys, a real OSTree repository, the real squashfs tools."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.adapters import packfile
from agent.core import pack as format_
from agent.core.authoring import AuthoringError
from agent.core.bundle import RawBundle, TrustedDocuments
from agent.core.bundletype import BundleType
from agent.core.errors import (
    AgentError,
    BundleError,
    MetadataNotFoundError,
    NoSpaceError,
    PackInvalidError,
    PullError,
)
from agent.core.outcome import InstallExit
from agent.core.pack import PREAMBLE
from agent.core.verify import verify_bundle, verify_roots
from agent.core.verity import BLOCK_BYTES
from agent.faces.cli import usb_update
from agent.services import author, pack
from tests import kills
from tests.authoring_desk import Workshop, files_below, workshop

pytestmark = [
    pytest.mark.needs_ostree,
    pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="no mksquashfs here"),
]

BIG = os.urandom(600_000)  # more than one group of blocks


def at_now(path: Path) -> Workshop:
    """Make a workshop that the machine's clock agrees with."""
    made = workshop(path)
    made.now = datetime.now(UTC).replace(microsecond=0)
    return made


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    """A workshop with a CI bundle of some size."""
    made = at_now(tmp_path)
    made.create()
    blob = made.bundle / "apps/blobs/sha256" / ("ab" * 32)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(BIG)
    (made.bundle / "apps/apps/empty").mkdir(parents=True)
    return made


def tree_of(path: Path) -> dict[str, bytes | None]:
    """Return every file and directory below ``path``."""
    return {
        str(entry.relative_to(path)): entry.read_bytes() if entry.is_file() else None
        for entry in path.rglob("*")
    }


def unpack(shop: Workshop, name: str = "again", file: str = "bundle.usbu") -> Path:
    pack.unpack_bundle(shop.desk(), shop.packs(), shop.path / file, shop.path / name)
    return shop.path / name


def sign(shop: Workshop, archive: Path | None = None) -> pack.PackInfo:
    file = shop.path / "bundle.usbu"
    return pack.sign_pack(shop.desk(), shop.packs(), file, archive or shop.offline_key)


def flip(file: Path, position: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(position)
        byte = opened.read(1)
        opened.seek(position)
        opened.write(bytes([byte[0] ^ 1]))


def verify(shop: Workshop, *words: str) -> int:
    path = str(shop.path / "bundle.usbu")
    roots = str(shop.keys / "roots")
    return usb_update(["bundle", "verify", path, "--roots", roots, *words])


# --- round trips ----------------------------------------------------------------------


def test_a_pack_gives_the_very_bundle_again(shop: Workshop) -> None:
    shop.pack()

    assert tree_of(unpack(shop)) == tree_of(shop.bundle)


def test_only_the_pack_is_left_beside_the_bundle(shop: Workshop) -> None:
    before = set(shop.path.iterdir())
    shop.pack()
    unpack(shop)

    assert set(shop.path.iterdir()) - before == {shop.path / "bundle.usbu", shop.path / "again"}


def test_the_same_bundle_gives_the_same_bytes(shop: Workshop) -> None:
    """However it was copied: other modes, times, order of writing, hard links."""
    shop.pack()
    copy = shop.path / "copy"
    for file in sorted(shop.bundle.rglob("*"), reverse=True):
        target = copy / file.relative_to(shop.bundle)
        if file.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
            target.chmod(0o700)
            os.utime(target, (1, 1))
    blob = copy / "apps/blobs/sha256" / ("ab" * 32)
    blob.rename(shop.path / "elsewhere")
    blob.hardlink_to(shop.path / "elsewhere")
    other = shop.path / "other.usbu"
    pack.pack_bundle(shop.desk(), shop.packs(), copy, other, shop.keys)

    assert other.read_bytes() == (shop.path / "bundle.usbu").read_bytes()


def test_a_bundle_without_apps_is_packed(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    shop.create()
    shop.pack()

    assert tree_of(unpack(shop)) == tree_of(shop.bundle)


def test_several_targets_are_packed(shop: Workshop) -> None:
    shop.create(43, allow_multiple_targets=True)
    info = shop.pack()

    assert info.bundle.listed == ("rpi-lmp-42", "rpi-lmp-43")
    assert len(info.facts.content.commits) == 2
    assert tree_of(unpack(shop)) == tree_of(shop.bundle)


def test_what_does_not_belong_into_tuf_stays_behind(shop: Workshop) -> None:
    (shop.bundle / "tuf/._timestamp.json").write_bytes(b"\xff")
    shop.pack()

    assert not (unpack(shop) / "tuf/._timestamp.json").exists()


@pytest.mark.skipif(shutil.which("veritysetup") is None, reason="no veritysetup here")
def test_veritysetup_agrees_with_the_tree(shop: Workshop) -> None:
    info = shop.pack()
    whole = (shop.path / "bundle.usbu").read_bytes()
    offset = packfile.read_header(shop.path / "bundle.usbu").seal.offset
    image, tree = shop.path / "image", shop.path / "tree"
    image.write_bytes(whole[offset : offset + info.facts.size])
    tree.write_bytes(whole[offset + info.facts.size :])
    blocks = info.facts.size // BLOCK_BYTES

    done = subprocess.run(
        ["veritysetup", "verify", "--no-superblock", f"--data-blocks={blocks}",
         f"--salt={info.facts.salt.hex()}", image, tree, info.facts.root_hash.hex()],
        check=False,
    )  # fmt: skip
    assert done.returncode == 0


# --- what is refused, and what is left then --------------------------------------------


def refused(
    shop: Workshop, match: str, name: str = "bundle.usbu", **changes: Any
) -> AuthoringError:
    before = tree_of(shop.path)
    asked = {"bundle": shop.bundle, "path": shop.path / name, "keys": shop.keys, **changes}
    packs = asked.pop("packs", shop.packs())
    with pytest.raises(AuthoringError, match=match) as caught:
        pack.pack_bundle(shop.desk(), packs, **asked)
    assert tree_of(shop.path) == before
    return caught.value


def test_a_file_that_is_there_is_not_overwritten(shop: Workshop) -> None:
    shop.pack()
    refused(shop, "exists already")


def test_a_name_that_no_device_would_look_at_is_refused(shop: Workshop) -> None:
    assert "bundle.usbu" in refused(shop, "does not end in", "bundle.img").hint


def test_strays_are_refused(shop: Workshop) -> None:
    (shop.bundle / "apps/apps/._shop").write_bytes(b"")
    refused(shop, "is no App directory")


def test_an_unfinished_bundle_is_refused(shop: Workshop) -> None:
    shop.desk().bundle(shop.bundle).begin("rpi-lmp-43")
    refused(shop, "making 'rpi-lmp-43' .* was interrupted")


def test_a_link_is_refused(shop: Workshop) -> None:
    (shop.bundle / "ostree_repo/link").symlink_to("/etc/shadow")
    refused(shop, "neither a directory nor a regular file")


def test_no_content_is_refused(shop: Workshop) -> None:
    shutil.rmtree(shop.bundle / "apps")
    shutil.rmtree(shop.bundle / "ostree_repo")
    refused(shop, "nothing to pack")


def test_no_bundle_is_refused(shop: Workshop) -> None:
    refused(shop, "this is no bundle", bundle=shop.keys)


def test_a_strangers_keys_are_refused(shop: Workshop) -> None:
    author.make_keys(shop.desk(), shop.path / "stranger")
    refused(shop, "is not in the bundle's newest root", keys=shop.path / "stranger")


def test_an_expired_bundle_is_refused(shop: Workshop) -> None:
    shop.later(31)
    refused(shop, "expired at")


@pytest.mark.parametrize("limit", [BLOCK_BYTES, len(BIG) + 3 * BLOCK_BYTES])
def test_a_pack_too_long_for_fat_is_refused(shop: Workshop, limit: int) -> None:
    """Before the image is made when its content says so, else before the pack is written."""
    packs = shop.packs(limit=lambda _: limit)
    error = refused(shop, f"holds files up to {limit}", packs=packs)

    assert "exFAT or ext4" in error.hint


def test_a_directory_with_content_is_not_unpacked_into(shop: Workshop) -> None:
    shop.pack()
    with pytest.raises(AuthoringError, match="already"):
        unpack(shop, "bundle")


def test_what_nobody_sealed_is_not_unpacked(shop: Workshop) -> None:
    shop.pack()
    file = shop.path / "bundle.usbu"
    header = packfile.read_header(file)
    bare = json.loads(header.seal.document) | {"signatures": []}
    head = format_.write_header(header.documents, json.dumps(bare).encode())
    file.write_bytes(head + file.read_bytes()[header.seal.offset :])

    with pytest.raises(AuthoringError, match="has signed its seal"):
        unpack(shop)


@pytest.mark.parametrize("where", ["image", "tree"])
def test_a_damaged_pack_is_not_unpacked(shop: Workshop, where: str) -> None:
    shop.pack()
    file = shop.path / "bundle.usbu"
    header = packfile.read_header(file)
    flip(file, header.seal.offset + (header.facts.size if where == "tree" else 300_000))

    with pytest.raises(PullError, match="not the one that was signed"):
        unpack(shop)
    assert not (shop.path / "again").exists()


def interrupted_after(calls: int) -> Callable[[str, int, int], None]:
    """Return a progress at whose so-many-th step a person presses Ctrl-C."""
    steps = iter(range(calls))

    def told(_step: str, _done: int, _total: int) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    return told


@pytest.mark.parametrize("calls", range(6))
def test_an_interrupted_pack_is_not_there_and_the_next_is_whole(shop: Workshop, calls: int) -> None:
    before = tree_of(shop.path)
    file = shop.path / "bundle.usbu"
    packs = shop.packs(interrupted_after(calls))
    try:
        pack.pack_bundle(shop.desk(), packs, shop.bundle, file, shop.keys)
    except KeyboardInterrupt:
        assert tree_of(shop.path) == before
        shop.pack()

    assert tree_of(unpack(shop)) == tree_of(shop.bundle)


def test_wherever_packing_is_killed_the_next_command_makes_the_same_bytes(shop: Workshop) -> None:
    shop.pack()
    file = shop.path / "bundle.usbu"
    whole = file.read_bytes()
    file.unlink()
    total = kills.changes(shop.pack)
    for at, told in kills.some(total, 8):
        file.unlink(missing_ok=True)
        if kills.killed_at(shop.pack, at) and not file.exists():
            shop.pack()
        assert file.read_bytes() == whole, told
        left = [path.name for path in shop.path.glob(".*")]
        assert left in ([], [".bundle.usbu.lock"]), told


def test_wherever_unpacking_is_killed_it_is_finished_by_repeating_it(shop: Workshop) -> None:
    shop.pack()
    total = kills.changes(lambda: unpack(shop, "first"))
    assert tree_of(shop.path / "first") == tree_of(shop.bundle)
    for at, told in kills.some(total, 12):
        again = shop.path / f"again-{at}"
        kills.killed_at(lambda name=again.name: unpack(shop, name), at)  # type: ignore[misc]
        if not (again / "tuf/bundle-targets.json").exists() or (again / ".unfinished").exists():
            unpack(shop, again.name)
        (again / ".lock").unlink(missing_ok=True)  # killed when all was done
        assert tree_of(again) == tree_of(shop.bundle), told


def test_another_pack_does_not_take_over_what_was_begun(shop: Workshop) -> None:
    shop.pack()
    shop.create(43, allow_multiple_targets=True)
    shop.pack("other.usbu")
    (shop.path / "again").mkdir()
    shop.desk().bundle(shop.path / "again").begin("pack 0011")
    (shop.path / "again/apps").mkdir()

    with pytest.raises(AuthoringError, match="holds apps already"):
        unpack(shop, file="other.usbu")


# --- production -----------------------------------------------------------------------


@pytest.fixture
def prod(tmp_path: Path) -> Workshop:
    made = at_now(tmp_path)
    made.create(bundle_type=BundleType.PROD)
    return made


def test_a_production_pack_is_signed_as_a_whole(prod: Workshop) -> None:
    """One visit to the offline key: Targets, list and seal."""
    assert prod.pack().missing == 1
    assert verify(prod, "--type", "prod") == 15
    info = sign(prod)

    assert (info.missing, info.bundle.targets_missing) == (0, 0)
    assert verify(prod, "--type", "prod", "--deep") == 0
    assert tree_of(unpack(prod)).keys() == tree_of(prod.bundle).keys()


def test_a_signed_bundle_needs_one_more_signature_on_its_pack(prod: Workshop) -> None:
    prod.sign()
    prod.pack()
    assert verify(prod, "--type", "prod") == 15
    sign(prod)

    assert verify(prod, "--type", "prod") == 0
    assert tree_of(unpack(prod)) == tree_of(prod.bundle)


@pytest.mark.parametrize(
    ("archive", "match"),
    [
        (lambda shop: shop.offline_key, "has signed this already"),
        (lambda shop: shop.keys / "keys/offline-root.tgz", "holds 0 targets keys"),
    ],
    ids=["twice", "a stranger"],
)
def test_a_signature_of_no_use_changes_nothing(
    prod: Workshop, archive: Callable[[Workshop], Path], match: str
) -> None:
    prod.pack()
    sign(prod)
    before = tree_of(prod.path)

    with pytest.raises(AuthoringError, match=match):
        sign(prod, archive(prod))
    assert tree_of(prod.path) == before


def test_an_interrupted_signature_leaves_the_pack_as_it_was(prod: Workshop) -> None:
    prod.pack()
    before = tree_of(prod.path)
    with pytest.raises(KeyboardInterrupt):
        pack.sign_pack(
            prod.desk(),
            prod.packs(interrupted_after(0)),
            prod.path / "bundle.usbu",
            prod.offline_key,
        )

    assert tree_of(prod.path) == before
    assert sign(prod).missing == 0


def test_nobody_vouches_for_an_image_that_changed(prod: Workshop) -> None:
    prod.pack()
    file = prod.path / "bundle.usbu"
    flip(file, packfile.read_header(file).seal.offset + 100)
    before = tree_of(prod.path)

    with pytest.raises(PullError):
        sign(prod)
    assert tree_of(prod.path) == before


# --- verify, show ---------------------------------------------------------------------


def test_verify_answers_for_a_pack_as_for_its_bundle(shop: Workshop) -> None:
    shutil.rmtree(shop.bundle / "apps")  # its blob belongs to no App
    shop.pack()
    for words in (
        ["--type", "ci", "--tag", "main", "--hardware-id", "rpi", "--deep"],
        ["--type", "prod"],
        ["--tag", "devel"],
        ["--hardware-id", "other"],
    ):
        directory = usb_update(
            ["bundle", "verify", str(shop.bundle), "--roots", str(shop.keys / "roots"), *words]
        )
        assert verify(shop, *words) == directory, words


def test_verify_deep_finds_a_changed_block(shop: Workshop) -> None:
    info = shop.pack()
    file = shop.path / "bundle.usbu"
    flip(file, packfile.read_header(file).seal.offset + 5000)
    verdict = author.check_bundle(
        shop.desk(), file, author.DeviceGuess(shop.keys / "roots", BundleType.CI), deep=True
    )

    assert int(verdict.outcome.exit) == 50
    assert "not the one that was signed" in verdict.damaged[0]
    assert info.size == file.stat().st_size


def test_show_tells_of_bundle_and_seal(shop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    info = shop.pack()
    assert usb_update(["bundle", "show", str(shop.path / "bundle.usbu")]) == 0
    text = capsys.readouterr().out
    assert usb_update(["bundle", "show", str(shop.path / "bundle.usbu"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert text.startswith("Bundle Targets info:")
    assert f"Root hash:\t{info.facts.root_hash.hex()}" in text
    assert told["pack"]["root_hash"] == info.facts.root_hash.hex()
    assert (told["pack"]["missing"], told["missing"]) == (0, 0)


def test_a_pack_is_not_added_to(shop: Workshop) -> None:
    shop.pack()
    with pytest.raises(AuthoringError, match="is a pack"):
        shop.create(43, destination=shop.path / "bundle.usbu", allow_multiple_targets=True)


def test_the_commands_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shop = at_now(tmp_path)
    shop.create(bundle_type=BundleType.PROD)
    keys = ["--keys", "keys"]
    assert usb_update(["bundle", "pack", "bundle", "stick.usbu", *keys]) == 0
    assert "Missing:\t1" in capsys.readouterr().out
    offline = ["-k", "keys/keys/offline-targets.tgz"]
    assert usb_update(["bundle", "sign", "stick.usbu", *offline]) == 0
    assert "Missing" not in capsys.readouterr().out
    assert usb_update(["bundle", "unpack", "stick.usbu", "again"]) == 0
    assert usb_update(["bundle", "unpack", "nowhere.usbu", "more"]) == 1
    assert usb_update(["bundle", "pack", "nowhere", "x.usbu", *keys]) == 1
    assert "internal error" not in capsys.readouterr().err
    assert files_below(Path("again")).keys() == files_below(Path("bundle")).keys()


# --- the file, as a device reads it ----------------------------------------------------


def header_error(file: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        packfile.read_header(file)
    return caught.value


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data[:-1], "bytes, expected"),
        (lambda data: data[: len(data) // 2], "bytes, expected"),
        (lambda data: data[:-BLOCK_BYTES], "bytes, expected"),
        (lambda data: data + b"\0", "bytes, expected"),
        (lambda data: data + bytes(BLOCK_BYTES), "bytes, expected"),
        (lambda data: data[:100], "ends within its header"),
        (lambda data: data[:7], "does not begin"),
        (lambda _: b"", "does not begin"),
        (lambda data: b"X" + data[1:], "does not begin"),
        (lambda data: data[:8] + b"\2" + data[9:], "format 2"),
        (lambda data: data[:12] + b"\xff\xff\xff\x7f" + data[16:], "more than"),
        (lambda data: data[:200] + b"\xff" + data[201:], "cannot be read"),
    ],
)
def test_a_file_that_is_not_as_it_was_packed_is_15(
    shop: Workshop, change: Callable[[bytes], bytes], match: str
) -> None:
    shop.pack()
    file = shop.path / "bundle.usbu"
    file.write_bytes(change(file.read_bytes()))
    error = header_error(file)

    assert match in error.message
    assert error.exit is InstallExit.BUNDLE_INVALID


def test_a_header_holds_the_names_of_bundle_metadata_alone(shop: Workshop) -> None:
    shop.pack()
    file = shop.path / "bundle.usbu"
    header = packfile.read_header(file)
    rest = file.read_bytes()[header.seal.offset :]
    for documents in ({"../../x": b"{}"}, {"timestamp.json": b" " * 70_000}):
        head = format_.write_header({**header.documents, **documents}, header.seal.document)
        file.write_bytes(head + rest)

        assert isinstance(header_error(file), PackInvalidError)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")

    assert isinstance(header_error(tmp_path / "fifo"), PackInvalidError)
    assert isinstance(header_error(tmp_path / "link"), PackInvalidError)
    assert isinstance(header_error(tmp_path / "nothing"), MetadataNotFoundError)


def copied(shop: Workshop, before: Callable[[Path], object] = bool) -> Path:
    """Copy a pack's image as a device does; ``before`` happens to the stick first."""
    shop.pack()
    file = shop.path / "bundle.usbu"
    header = packfile.read_header(file)
    before(file)
    copy = shop.path / "copy"
    image = header.facts.image(header.seal.offset)
    packfile.copy_image(file, image, copy, lambda *_: None)
    return copy


def test_a_copy_is_the_image(shop: Workshop) -> None:
    copy = copied(shop)

    assert BIG in copy.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "change",
    [
        lambda file: flip(file, file.stat().st_size - 1),
        lambda file: flip(file, file.stat().st_size - 9000),
        lambda file: os.truncate(file, 20_000),
        lambda file: file.unlink(),
        lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
        lambda file: (file.unlink(), file.write_bytes(b"")),
    ],
)
def test_a_stick_that_changes_under_us_leaves_no_copy(
    shop: Workshop, change: Callable[[Path], object]
) -> None:
    with pytest.raises(PullError) as caught:
        copied(shop, change)

    assert caught.value.exit is InstallExit.PULL_FAILED
    assert not (shop.path / "copy").exists()


def test_an_image_that_does_not_fit_is_not_begun(shop: Workshop) -> None:
    shop.pack()
    file = shop.path / "bundle.usbu"
    header = packfile.read_header(file)
    image = header.facts.image(header.seal.offset)
    huge = type(image)(image.file_system, image.offset, 2**40, image.root_hash, image.salt)

    with pytest.raises(NoSpaceError):
        packfile.copy_image(file, huge, shop.path / "copy", lambda *_: None)
    assert not (shop.path / "copy").exists()


def test_a_header_is_bounded() -> None:
    """Whatever its length says, no more than that is read."""
    with pytest.raises(AgentError, match="more than"):
        format_.header_length(PREAMBLE.pack(format_.MAGIC, 1, 2**31))


def test_wherever_a_pack_is_changed_nothing_else_comes_out_of_it(shop: Workshop) -> None:
    """All through the header, image and tree: refused, or the very content that was packed."""
    shop.pack()
    file = shop.path / "bundle.usbu"
    whole, copy = file.read_bytes(), shop.path / "copy"
    offset = packfile.read_header(file).seal.offset
    roots = verify_roots(dict(shop.desk().roots(shop.keys / "roots", BundleType.CI)))

    def come_out() -> tuple[object, bytes]:
        header = packfile.read_header(file)
        raw = RawBundle(header.documents, str(file), header.seal)
        bundle = verify_bundle(
            raw,
            TrustedDocuments(roots),
            device_type=BundleType.CI,
            device_tags=("main",),
            now=shop.now,
        )
        assert bundle.image
        packfile.copy_image(file, bundle.image, copy, lambda *_: None)
        return (bundle.targets, bundle.documents, bundle.tag), copy.read_bytes()

    good = come_out()
    refused = 0
    positions = [*range(0, offset, 23), *range(offset, len(whole), 4999), len(whole) - 1]
    for position in positions:
        flip(file, position)
        try:
            assert come_out() == good, position
        except BundleError:
            refused += 1
        flip(file, position)

    assert file.read_bytes() == whole
    # What is left is within roots that this device has no need of.
    assert refused > len(positions) / 2


def test_the_stick_doctor_judges_a_pack(shop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(shop.bundle / "apps")  # its blob belongs to no App
    shop.pack()
    stick = shop.path / "stick"
    stick.mkdir()
    file = Path(shutil.move(shop.path / "bundle.usbu", stick))
    words = ["stick", "doctor", str(stick), "--roots", str(shop.keys / "roots"), "--deep", "--fix"]
    usb_update(words)
    good = capsys.readouterr().out
    flip(file, packfile.read_header(file).seal.offset)
    code = usb_update(words)

    assert "the device would install rpi-lmp-42" in good
    assert code != 0
    assert "the device would answer 50" in capsys.readouterr().out
