"""udev: our rule on mocked sticks, real events of loop devices, hostile properties."""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters.udev import DEVNODE, UdevDevices, event_from_properties, system_disks
from agent.core.stick import Action
from agent.services.watch import StickQueue
from tests import loop_sticks as sticks
from tests import udevd

STICK = {
    "DEVNAME": "/dev/sda1",
    "DEVPATH": "/devices/usb1/1-1/sda/sda1",
    "DEVTYPE": "partition",
    "ACTION": "add",
    "MAJOR": "8",
    "MINOR": "1",
    "SEQNUM": "77",
    "TAGS": ":usb-update:systemd:",
    "CURRENT_TAGS": ":usb-update:systemd:",
    "ID_FS_TYPE": "vfat",
    "ID_FS_UUID": "AAAA-0001",
    "ID_FS_LABEL": "STICK",
}


# --- what udev says ---------------------------------------------------------------------


def test_a_partition_knows_its_disk() -> None:
    event = event_from_properties(STICK)

    assert event is not None
    assert ("/dev/sda1", "sda", "8:1", "vfat", "AAAA-0001", 77) == (
        event.devnode,
        event.disk,
        event.number,
        event.fs_type,
        event.fs_uuid,
        event.seqnum,
    )


def test_a_device_that_lost_its_medium_counts_as_removed() -> None:
    """A card leaves its reader as ``change`` without our tag; TAGS keeps it for ever."""
    reader = {**STICK, "DEVTYPE": "disk", "DEVNAME": "/dev/sda", "ACTION": "change"}
    event = event_from_properties({**reader, "CURRENT_TAGS": ":systemd:"})

    assert event is not None
    assert Action.REMOVE is event.action


def test_a_partition_that_udev_could_not_read_just_now_is_no_news() -> None:
    """It is looked at again after each write, while the result is written too."""
    lost = {**STICK, "ACTION": "change", "CURRENT_TAGS": ":systemd:"}

    assert event_from_properties(lost) is None


def test_an_old_udev_without_current_tags_is_understood() -> None:
    old = {key: value for key, value in STICK.items() if key != "CURRENT_TAGS"}

    event = event_from_properties(old)

    assert event is not None
    assert Action.ADD is event.action


@pytest.mark.parametrize(
    "devnode",
    [
        "",
        "/dev/sda1; reboot",
        "/dev/sda1\n",
        "/dev/../etc/passwd",
        "/dev/disk/by-label/x",
        "/dev/vda1",
        "/dev/dm-0",
        "/dev/mmcblk0boot0",
        "/dev/sd١",  # noqa: RUF001  an Arabic digit
        "sda1",
    ],
)
def test_a_name_that_is_no_sticks_is_ignored(devnode: str) -> None:
    """Attack: commands and paths in names."""
    assert event_from_properties({**STICK, "DEVNAME": devnode}) is None


@pytest.mark.parametrize(
    "devnode", ["/dev/sda", "/dev/sdaa12", "/dev/mmcblk1p1", "/dev/nvme0n1p2", "/dev/loop7"]
)
def test_names_of_sticks_are_known(devnode: str) -> None:
    assert DEVNODE.fullmatch(devnode)


def test_a_label_is_shown_harmlessly_and_a_uuid_must_be_one() -> None:
    """Attack: escape codes, formats and paths in labels."""
    hostile = {
        **STICK,
        "ID_FS_LABEL": "\x1b[2J%s$(reboot)\u202e" + "x" * 100,
        "ID_FS_UUID": "../../x",
        "ID_FS_TYPE": "vfat,loop",
        "MAJOR": "8:0",
        "SEQNUM": "-1",
    }

    event = event_from_properties(hostile)

    assert event is not None
    assert event.label.isprintable()
    assert len(event.label) <= 64
    assert ("", "", "0:1", 0) == (event.fs_uuid, event.fs_type, event.number, event.seqnum)


# --- the disk the system runs from ------------------------------------------------------


def test_the_disk_under_root_is_known() -> None:
    device = Path("/").stat().st_dev
    node = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not node.exists():
        pytest.skip("the root file system lies on no block device")

    assert system_disks(["/"]) & {node.resolve().name, node.resolve().parent.name}


def test_mapped_devices_are_followed_down_to_their_disks(tmp_path: Path) -> None:
    """/ on LVM on a partition of sdb: sdb is the system's disk."""
    device = tmp_path.stat().st_dev
    (tmp_path / "devices/sdb/sdb2").mkdir(parents=True)
    (tmp_path / "devices/sdb/sdb2/partition").write_text("2\n")
    (tmp_path / "devices/dm-0/slaves").mkdir(parents=True)
    (tmp_path / "devices/dm-0/slaves/sdb2").symlink_to("../../sdb/sdb2")
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    (numbers / f"{os.major(device)}:{os.minor(device)}").symlink_to("../devices/dm-0")

    assert {"dm-0", "sdb"} == system_disks([str(tmp_path)], sys_block=numbers)


def test_a_place_that_is_not_there_is_no_disk(tmp_path: Path) -> None:
    assert frozenset() == system_disks([str(tmp_path / "none")])


# --- the rule, on sticks that umockdev pretends -----------------------------------------

MOCK = """
import os, subprocess, sys
import gi
gi.require_version("UMockdev", "1.0")
from gi.repository import UMockdev

bed = UMockdev.Testbed.new()

def node(subsystem, name, parent, attributes=(), **properties):
    flat = [word for pair in properties.items() for word in pair]
    return bed.add_device(subsystem, name, parent, list(attributes), flat)

def usb(name="1-1", parent=None, removable="removable", kind="00"):
    return node("usb", name, parent, ["removable", removable, "bDeviceClass", kind])

def disk(parent, name="sda", removable="1", size="1000", **properties):
    return node(
        "block", name, parent, ["removable", removable, "size", size],
        DEVTYPE="disk", DEVNAME="/dev/" + name, MAJOR="8", MINOR="240", **properties,
    )

FS = {"ID_FS_USAGE": "filesystem", "ID_FS_TYPE": "vfat"}
MASS = {"ID_USB_INTERFACES": ":080650:"}
CASE
os.sync()
argv = ["udevadm", "test", "--action", ACTION, device.removeprefix("/sys")]
out = subprocess.run(argv, capture_output=True, text=True).stdout
wanted = ("CURRENT_TAGS", "SYSTEMD_WANTS", "USB_")
print([line for line in out.splitlines() if line.startswith(wanted)])
"""


def tagged(case: str, *, action: str = "add") -> tuple[bool, str]:
    """Let the real udev judge a mocked device, in a mount namespace of its own."""
    script = MOCK.replace("CASE", textwrap.dedent(case)).replace("ACTION", repr(action))
    shell = (
        "mount -t tmpfs tmpfs /run && mkdir -p /run/udev/rules.d /dev/block /dev/disk"
        " && mount -t tmpfs tmpfs /dev/block && mount -t tmpfs tmpfs /dev/disk"
        f" && cp {udevd.RULES} /run/udev/rules.d/"
        ' && exec umockdev-wrapper /usr/bin/python3 -c "$1"'
    )
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", shell, "sh", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return ":usb-update:" in done.stdout, done.stdout


def can_mock() -> bool:
    if os.geteuid() != 0 or shutil.which("umockdev-wrapper") is None:
        return False
    probe = "import gi; gi.require_version('UMockdev', '1.0'); from gi.repository import UMockdev"
    python = subprocess.run(["/usr/bin/python3", "-c", probe], capture_output=True, check=False)
    return python.returncode == 0


@pytest.mark.skipif(not can_mock(), reason="root, umockdev and gir1.2-umockdev-1.0 are needed")
class TestTheRule:
    @pytest.mark.parametrize(
        "case",
        [
            pytest.param("device = disk(usb(), **FS, **MASS)", id="a stick"),
            pytest.param("device = disk(usb(), removable='0', **FS)", id="an SSD or NVMe on USB"),
            pytest.param(
                "device = disk(usb(), **FS, ID_USB_INTERFACES=':080650:080662:')", id="UAS"
            ),
            pytest.param(
                "device = disk(usb('1-1.2', usb(removable='fixed', kind='09')), **FS)",
                id="a stick on a soldered hub",
            ),
            pytest.param(
                "device = disk(usb(removable='fixed'), **FS)", id="a soldered card reader"
            ),
            pytest.param(
                "card = node('mmc', 'mmc0:1', None, ['type', 'SD'])\n"
                "device = disk(card, 'mmcblk0', removable='0', **FS)",
                id="an SD card",
            ),
            pytest.param(
                "whole = disk(usb(), ID_PART_TABLE_TYPE='dos')\n"
                "device = node('block', 'sda1', whole, ['partition', '1', 'size', '900'],"
                " DEVTYPE='partition', DEVNAME='/dev/sda1', MAJOR='8', MINOR='241', **FS)",
                id="a partition",
            ),
        ],
    )
    def test_what_a_person_plugs_in_is_tagged_and_starts_the_agent(self, case: str) -> None:
        ours, said = tagged(case)

        assert ours, said
        assert "SYSTEMD_WANTS=usb-update.service" in said

    @pytest.mark.parametrize(
        "case",
        [
            pytest.param("device = disk(None, **FS)", id="an internal disk"),
            pytest.param(
                "device = disk(usb(removable='fixed'), removable='0', **FS)",
                id="a disk soldered to USB",
            ),
            pytest.param(
                "card = node('mmc', 'mmc0:1', None, ['type', 'MMC'])\n"
                "device = disk(card, 'mmcblk0', removable='0', **FS)",
                id="eMMC",
            ),
            pytest.param(
                "device = disk(usb(), **FS, ID_USB_INTERFACES=':080650:030101:')",
                id="a stick that is a keyboard as well",
            ),
            pytest.param(
                "device = disk(usb(), **FS, ID_USB_INTERFACES=':020600:080650:')",
                id="a stick that is a network card as well",
            ),
            pytest.param("device = disk(usb(), size='0')", id="a reader without a card"),
            pytest.param(
                "device = disk(usb(), ID_PART_TABLE_TYPE='gpt')", id="the disk around partitions"
            ),
            pytest.param("device = disk(usb(), 'sr0', **FS)", id="a CD drive on USB"),
            pytest.param("device = disk(usb(), 'loop0', **FS)", id="a loop device"),
        ],
    )
    def test_what_nobody_plugged_in_or_is_no_stick_is_not_tagged(self, case: str) -> None:
        """Attacks: BadUSB; an internal disk that poses as a stick."""
        ours, said = tagged(case)

        assert not ours, said
        assert "SYSTEMD_WANTS" not in said

    def test_a_blank_stick_gets_an_answer_but_starts_nothing(self) -> None:
        ours, said = tagged("device = disk(usb(), **MASS)")

        assert ours
        assert "SYSTEMD_WANTS" not in said


# --- real events ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def udev() -> Iterator[None]:
    with udevd.running():
        yield


@pytest.mark.needs_udev
class TestEvents:
    def test_six_sticks_at_once_come_in_order_each_once(self, udev: None, tmp_path: Path) -> None:
        images = [
            sticks.make_ext4(
                tmp_path / f"{i}.img", uuid=f"6b2a58a0-5d35-4c6f-9d6b-0123456789{i:02}"
            )
            for i in range(6)
        ]
        devices, queue = UdevDevices(), StickQueue()
        plugged = [sticks.attach(image) for image in images]
        try:
            udevd.settle()
            deadline = time.monotonic() + 5
            while len(queue.present()) < 6 and time.monotonic() < deadline:
                queue.feed(devices.read())
            taken = [queue.take() for _ in images]
        finally:
            for stick in plugged:
                sticks.detach(stick)
        udevd.settle()
        queue.feed(devices.read())

        assert {stick.devnode for stick in plugged} == {event.devnode for event in taken if event}
        assert queue.take() is None
        assert () == queue.present()

    def test_a_refused_file_system_and_a_blank_medium_are_told_of(
        self, udev: None, tmp_path: Path
    ) -> None:
        blank = sticks.make_blank(tmp_path / "blank.img")
        squash = sticks.make_refused(tmp_path / "squash.img", "squashfs")
        devices = UdevDevices()
        with sticks.plugged(blank) as one, sticks.plugged(squash) as two:
            udevd.settle()
            kinds = {event.devnode: event.fs_type for event in devices.present()}

            assert {one.devnode: "", two.devnode: "squashfs"} == kinds

    def test_events_that_overflowed_are_counted_anew(self, udev: None, tmp_path: Path) -> None:
        """More events than the socket holds: what is there and what went is still known."""
        devices, queue = UdevDevices(), StickQueue()
        image = sticks.make_ext4(tmp_path / "stick.img")
        gone = sticks.attach(sticks.make_ext4(tmp_path / "gone.img", uuid=sticks.UUID[:-1] + "c"))
        udevd.settle()
        queue.feed(devices.present())
        devices._monitor.set_receive_buffer_size(1)
        with sticks.plugged(image) as stick:
            sticks.detach(gone)
            for _ in range(40):
                subprocess.run(["udevadm", "trigger", stick.devnode], check=True)
            udevd.settle()
            queue.feed(devices.read())

            assert [stick.devnode] == [event.devnode for event in queue.present()]

    def test_the_disk_the_system_runs_from_is_never_a_stick(
        self, udev: None, tmp_path: Path
    ) -> None:
        """Attack: the system disk poses as a stick."""
        with sticks.plugged(sticks.make_ext4(tmp_path / "root.img")) as stick:
            udevd.settle()
            devices = UdevDevices(frozenset({Path(stick.devnode).name}))

            assert () == devices.present()


def test_listening_needs_none_of_the_heavy_libraries() -> None:
    code = """
import sys
import agent.adapters.control, agent.adapters.keypress, agent.adapters.mountinfo
import agent.adapters.poll, agent.adapters.systemd, agent.adapters.udev
import agent.services.consent, agent.services.watch
print({"docker", "pygit2", "yaml", "cryptography"} & set(sys.modules))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "set()" == out.stdout.strip()
