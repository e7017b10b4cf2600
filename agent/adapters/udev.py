"""pyudev's monitor → `BlockEvent`: what comes and goes, filtered by our tag in the kernel.

In: the ``udev`` netlink source, whose events carry what udev's rules found. Out: events
whose every word was checked. Loop, device-mapper and internal disks are not tagged by our
rule; the disks this system runs from are left out here once more, whatever their tag.
"""

import errno
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pyudev  # type: ignore[import-untyped]  # it ships none, and nobody else does

from agent.core.feedback import printable
from agent.core.stick import Action, BlockEvent
from agent.log import get_logger

log = get_logger()

TAG = "usb-update"
# Room for some thousand events: a hub of sticks plugged in while the daemon copies.
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
LABEL_LIMIT = 64  # characters; exFAT and ext4 allow 16, NTFS 32
RUNS_FROM = ("/", "/sysroot", "/boot", "/boot/efi", "/usr", "/var", "/var/sota")
SYS_BLOCK = Path("/sys/dev/block")

DEVNODE = re.compile(
    r"/dev/(?:sd[a-z]{1,3}[0-9]{0,3}|mmcblk[0-9]{1,3}(?:p[0-9]{1,3})?"
    r"|nvme[0-9]{1,3}n[0-9]{1,3}(?:p[0-9]{1,3})?|loop[0-9]{1,4}(?:p[0-9]{1,3})?)",
    re.ASCII,
)
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_KNOWN_ACTIONS = {"remove": Action.REMOVE, "change": Action.CHANGE}


class UdevDevices:
    """`Devices`: file systems with our tag.

    Args:
        system_disks: kernel names of disks that are never a stick.
    """

    def __init__(self, system_disks: frozenset[str] = frozenset()) -> None:
        self._system_disks = system_disks
        self._context = pyudev.Context()
        self._known: dict[str, BlockEvent] = {}
        self._monitor = self._listen()

    def _listen(self) -> pyudev.Monitor:
        """Listen from now on, before anybody asks what is present: nothing falls between."""
        monitor = pyudev.Monitor.from_netlink(self._context, source="udev")
        monitor.filter_by_tag(TAG)
        try:
            monitor.set_receive_buffer_size(RECEIVE_BUFFER_BYTES)
        except OSError as e:
            # More than net.core.rmem_max takes CAP_NET_ADMIN, which the service has not;
            # what then overflows is counted anew.
            log.debug("udev.buffer_refused", error=str(e))
        monitor.start()
        return monitor

    def fileno(self) -> int:
        """See `ports.Devices`."""
        return int(self._monitor.fileno())

    def present(self) -> tuple[BlockEvent, ...]:
        """See `ports.Devices`."""
        devices = self._context.list_devices(subsystem="block").match_tag(TAG)
        events = (event_from_properties(device.properties) for device in devices)
        return tuple(self._noted(event for event in events if not _is_gone(event)))

    def read(self) -> tuple[BlockEvent, ...]:
        """See `ports.Devices`."""
        try:
            return tuple(self._noted(self._received()))
        except OSError as e:
            if errno.ENOBUFS not in (e.errno, self._socket_error()):
                raise
            log.warning("udev.overflowed")
            self._drain()
            return self._recounted()

    def _received(self) -> Iterator[BlockEvent | None]:
        while (device := self._monitor.poll(timeout=0)) is not None:
            yield event_from_properties(device.properties)

    def _socket_error(self) -> int:
        """Return and clear the socket's error, which pyudev tells of without its number."""
        with socket.socket(fileno=os.dup(self._monitor.fileno())) as netlink:
            return netlink.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def _drain(self) -> None:
        """Forget what is older than the loss; what is there is counted afterwards."""
        with suppress(OSError):  # overflowed once more meanwhile: the next read says so
            while self._monitor.poll(timeout=0) is not None:
                pass

    def _noted(self, events: Iterable[BlockEvent | None]) -> Iterator[BlockEvent]:
        for event in events:
            if event is None or event.disk in self._system_disks:
                continue
            if event.action is Action.REMOVE:
                self._known.pop(event.devnode, None)
            else:
                self._known[event.devnode] = event
            yield event

    def _recounted(self) -> tuple[BlockEvent, ...]:
        """Events were lost: say what went by comparing, and what is there once more."""
        before = dict(self._known)
        there = self.present()
        still = {event.insertion for event in there}
        gone = [event for event in before.values() if event.insertion not in still]
        for event in gone:
            if event.devnode not in {here.devnode for here in there}:
                self._known.pop(event.devnode, None)
        return (*(_removal(event) for event in gone), *there)


def event_from_properties(properties: Mapping[str, str]) -> BlockEvent | None:
    """Check what udev says; None when it names a device that is none of ours.

    A medium that left its device (an SD card its reader, an image its loop device) comes as
    ``change`` without our tag among the current ones: that is a removal to us.

    Source: udev(7) ``TAG``, sd_device_has_current_tag(3): ``TAGS`` is sticky since 247.
    """
    devnode = properties.get("DEVNAME", "")
    if not DEVNODE.fullmatch(devnode):
        log.warning("device.ignored", devnode=printable(devnode, LABEL_LIMIT))
        return None
    action = _KNOWN_ACTIONS.get(properties.get("ACTION", ""), Action.ADD)
    tags = properties.get("CURRENT_TAGS", properties.get("TAGS", ""))
    if TAG not in tags.split(":"):
        if action is Action.CHANGE and properties.get("DEVTYPE") == "partition":
            # A partition leaves by ``remove``; this is udev that could not read it just now.
            return None
        action = Action.REMOVE
    return BlockEvent(
        devnode=devnode,
        action=action,
        number=f"{_digits(properties, 'MAJOR')}:{_digits(properties, 'MINOR')}",
        fs_type=_word(properties.get("ID_FS_TYPE", "")),
        fs_uuid=_word(properties.get("ID_FS_UUID", "")),
        label=printable(properties.get("ID_FS_LABEL", ""), LABEL_LIMIT),
        seqnum=int(_digits(properties, "SEQNUM")),
        disk=_disk(properties),
    )


def _is_gone(event: BlockEvent | None) -> bool:
    return event is not None and event.action is Action.REMOVE


def _removal(event: BlockEvent) -> BlockEvent:
    return BlockEvent(
        devnode=event.devnode, action=Action.REMOVE, number=event.number, disk=event.disk
    )


def _word(text: str) -> str:
    """Keep a name that is one; a made-up UUID with other characters is no name."""
    return text if _WORD.fullmatch(text) else ""


def _digits(properties: Mapping[str, str], key: str) -> str:
    text = properties.get(key, "0")
    return text if _NUMBER.fullmatch(text) else "0"


def _disk(properties: Mapping[str, str]) -> str:
    """Return the whole disk's kernel name: the parent's directory for a partition."""
    path = Path(properties.get("DEVPATH", ""))
    return path.parent.name if properties.get("DEVTYPE") == "partition" else path.name


# --- what the system runs from ----------------------------------------------------------


def system_disks(
    places: Iterable[str] = RUNS_FROM, *, sys_block: Path = SYS_BLOCK
) -> frozenset[str]:
    """Return the kernel names of the disks under ``places``; what is missing is left out.

    Device-mapper and RAID devices are followed down to the disks they lie on.
    """
    numbers = {_number_below(place) for place in places if Path(place).exists()}
    nodes = [sys_block / number for number in sorted(numbers)]
    return frozenset(name for node in nodes if node.exists() for name in _disks_of(node.resolve()))


def _number_below(place: str) -> str:
    device = Path(place).stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def _disks_of(node: Path) -> Iterator[str]:
    """Yield the disk of a block device's sysfs directory, and of what lies under it."""
    yield node.parent.name if (node / "partition").exists() else node.name
    for slave in sorted(node.glob("slaves/*")):
        yield from _disks_of(slave.resolve())
