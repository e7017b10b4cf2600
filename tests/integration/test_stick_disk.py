"""Which disk is a stick: sysfs as the kernel lays it out; and file systems on loop devices."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.adapters.authoring.stickdisk import SYS, Disks, blkid, make_file_system
from agent.core.authoring import AuthoringError
from tests import loop_sticks
from tests.stick_desk import mounted

USB = "devices/pci0000:00/0000:00:14.0/usb2/2-1"
SCSI = "2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb"

# What is read of sysfs: a file and its text, or a link and where it leads.
STICK = {
    f"{USB}/../subsystem": "-> bus/usb",
    f"{USB}/../removable": "unknown",
    f"{USB}/../bDeviceClass": "09",
    f"{USB}/subsystem": "-> bus/usb",
    f"{USB}/removable": "removable",
    f"{USB}/bDeviceClass": "00",
    f"{USB}/{SCSI}/removable": "1",
    f"{USB}/{SCSI}/device/vendor": "ACME    ",
    f"{USB}/{SCSI}/device/model": "Stick \x1b[31m 3.0",
    f"{USB}/{SCSI}/dev": "8:16",
    f"{USB}/{SCSI}/size": "2048",
    f"{USB}/{SCSI}/ro": "0",
    f"{USB}/{SCSI}/sdb1/partition": "1",
    f"{USB}/{SCSI}/sdb1/dev": "8:17",
    f"{USB}/{SCSI}/sdb1/size": "1024",
    "dev/block/8:16": f"-> {USB}/{SCSI}",
    "dev/block/8:17": f"-> {USB}/{SCSI}/sdb1",
}
SSD_ON_USB = STICK | {f"{USB}/{SCSI}/removable": "0"}
SOLDERED_TO_USB = SSD_ON_USB | {f"{USB}/removable": "fixed"}
CARD_IN_SOLDERED_READER = STICK | {f"{USB}/removable": "fixed"}


def plain(node: str, **more: str) -> dict[str, str]:
    """Return a disk that hangs on no USB."""
    return {
        f"devices/{node}/dev": "8:16",
        f"devices/{node}/removable": "0",
        f"devices/{node}/size": "2048",
        "dev/block/8:16": f"-> devices/{node}",
        **more,
    }


SATA = plain("pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda")
NVME = plain("pci0000:00/0000:00:1d.0/nvme/nvme0/nvme0n1")
VIRTIO = plain("pci0000:00/0000:00:02.0/virtio1/block/vda")
CARD = "platform/soc/mmc0/mmc0:0001"
SD_CARD = plain(
    f"{CARD}/block/mmcblk0",
    **{f"devices/{CARD}/subsystem": "-> bus/mmc", f"devices/{CARD}/type": "SD"},
)
EMMC = SD_CARD | {f"devices/{CARD}/type": "MMC"}
DVD = STICK | {
    "dev/block/8:16": f"-> {USB}/2-1:1.0/host6/block/sr0",
    f"{USB}/2-1:1.0/host6/block/sr0/removable": "1",
}


def sysfs(root: Path, told: dict[str, str]) -> Path:
    for name, text in told.items():
        path = root / Path(name.replace("usb2/2-1/../", "usb2/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            target = root / text.removeprefix("-> ")
            target.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        else:
            path.write_text(f"{text}\n")
    return root


def disks(root: Path, told: dict[str, str], **changes: object) -> Disks:
    asked: dict[str, object] = {
        "system": frozenset(),
        "mounted": {},
        "probe": lambda _: ("", ""),
        "sys": sysfs(root, told),
        **changes,
    }
    return Disks(**asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "told",
    [STICK, SSD_ON_USB, CARD_IN_SOLDERED_READER, SD_CARD],
    ids=["stick", "ssd on usb", "card in a soldered reader", "sd card"],
)
def test_what_a_person_can_pull_out_is_a_stick(tmp_path: Path, told: dict[str, str]) -> None:
    assert disks(tmp_path, told).numbered("8:16").removable


@pytest.mark.parametrize(
    "told",
    [SATA, NVME, VIRTIO, EMMC, SOLDERED_TO_USB, DVD],
    ids=["sata", "nvme", "virtio", "emmc", "soldered to usb", "dvd"],
)
def test_everything_else_is_none(tmp_path: Path, told: dict[str, str]) -> None:
    assert not disks(tmp_path, told).numbered("8:16").removable


def test_a_partition_belongs_to_its_disk(tmp_path: Path) -> None:
    disk = disks(tmp_path, STICK, system=frozenset({"sdb"})).numbered("8:17")

    assert ("sdb", "/dev/sdb1", True, True) == (
        disk.name,
        disk.devnode,
        disk.removable,
        disk.system,
    )
    assert ["/dev/sdb1"] == [part.devnode for part in disk.parts]


def test_a_disk_is_told_with_all_that_is_on_it(tmp_path: Path) -> None:
    on_it = {"/dev/sdb": ("partition table (dos)", ""), "/dev/sdb1": ("vfat", "PHOTOS")}
    found = disks(
        tmp_path, STICK, mounted={"8:17": ("/media/photos",)}, probe=on_it.__getitem__
    ).numbered("8:16")
    whole, part = found.parts

    assert found.model == "ACME Stick ?[31m 3.0"
    assert (whole.fs_type, whole.size_bytes) == ("partition table (dos)", 1024 * 1024)
    assert (part.number, part.label, part.mounted_at) == ("8:17", "PHOTOS", ("/media/photos",))


def test_what_lies_on_a_disk_counts_as_its_user(tmp_path: Path) -> None:
    told = STICK | {f"{USB}/{SCSI}/sdb1/holders/dm-0": "-> devices/virtual/block/dm-0"}

    assert disks(tmp_path, told).numbered("8:16").parts[1].users == ("dm-0",)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/proc/self/status", "/proc"])
def test_what_names_no_disk_is_told(path: str) -> None:
    with pytest.raises(AuthoringError):
        Disks(frozenset(), {}, blkid).named(Path(path))


@pytest.mark.needs_root
class TestFormatting:
    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        return loop_sticks.make_ext4(tmp_path / "stick.img", {"old": b"x"}, size=64 << 20)

    def test_the_real_sysfs_calls_a_loop_device_no_stick(self, image: Path) -> None:
        with loop_sticks.plugged(image) as stick:
            disk = Disks(frozenset(), {}, blkid, SYS).named(Path(stick.devnode))

        assert (disk.removable, disk.named.fs_type, disk.named.label) == (False, "ext4", "STICK")
        assert disk.named.size_bytes == 64 << 20

    @pytest.mark.skipif(not shutil.which("mdir"), reason="no mtools here")
    @pytest.mark.skipif(not shutil.which("fsck.vfat"), reason="no dosfstools here")
    def test_fat_is_sound_empty_and_labelled(self, image: Path) -> None:
        with loop_sticks.plugged(image) as stick:
            make_file_system(stick.devnode, "vfat", "ROOF-7")
        said = subprocess.run(
            ["mdir", "-i", image, "::"], capture_output=True, text=True, check=True
        ).stdout
        checked = subprocess.run(["fsck.vfat", "-n", image], capture_output=True, check=False)

        assert "Volume in drive : is ROOF-7" in said
        assert "No files" in said
        assert checked.returncode == 0

    @pytest.mark.skipif(not shutil.which("mkfs.exfat"), reason="no exfatprogs here")
    def test_exfat_is_sound_and_labelled(self, image: Path) -> None:
        with loop_sticks.plugged(image) as stick:
            make_file_system(stick.devnode, "exfat", "ROOF-7")
            assert blkid(stick.devnode) == ("exfat", "ROOF-7")
        subprocess.run(["fsck.exfat", "-n", image], capture_output=True, check=True)

    def test_ext4_is_empty_and_labelled(self, image: Path) -> None:
        with loop_sticks.plugged(image) as stick:
            make_file_system(stick.devnode, "ext4", "ROOF-7")
            assert blkid(stick.devnode) == ("ext4", "ROOF-7")
            with mounted(stick) as place:
                assert [path.name for path in place.iterdir()] == ["lost+found"]

    def test_an_old_partition_table_is_gone(self, image: Path) -> None:
        script = b"label: gpt\nstart=2048\n"
        subprocess.run(["sfdisk", "-q", image], input=script, check=True, capture_output=True)
        with loop_sticks.plugged(image) as stick:
            make_file_system(stick.devnode, "vfat", "ROOF-7")

            assert blkid(stick.devnode) == ("vfat", "ROOF-7")

    @pytest.mark.parametrize("why", ["mounted", "label"])
    def test_what_is_refused_is_untouched(self, image: Path, why: str) -> None:
        with loop_sticks.plugged(image) as stick:
            if why == "label":
                with pytest.raises(AuthoringError, match="cannot be a stick's label"):
                    make_file_system(stick.devnode, "vfat", "too long a label")
            else:
                with mounted(stick), pytest.raises(AuthoringError, match="cannot be opened"):
                    make_file_system(stick.devnode, "vfat", "ROOF-7")

            assert blkid(stick.devnode) == ("ext4", "STICK")

    def test_a_write_protected_stick_is_untouched(self, image: Path) -> None:
        before = hashlib.sha256(image.read_bytes()).digest()
        with (
            loop_sticks.plugged(image, read_only=True) as stick,
            pytest.raises(AuthoringError),
        ):
            make_file_system(stick.devnode, "vfat", "ROOF-7")

        assert hashlib.sha256(image.read_bytes()).digest() == before
