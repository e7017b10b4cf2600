"""A stick as the kernel and udev tell of it: what appeared, where, and whether it is new.

Names and labels are the stick's own words: display data, bounded and made printable where
they are read. What decides is the kernel's: device number, disk sequence number.
"""

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What became of a file system; the value is udev's word."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class BlockEvent:
    """A tagged partition or disk came, changed or went.

    Attributes:
        devnode: kernel name below ``/dev``, checked: ``/dev/sda1``.
        action: REMOVE also when the device stays but its medium went.
        number: ``major:minor``, as mountinfo writes it; empty when already unknown.
        fs_type: udev's word for the file system; empty when there is none.
        fs_uuid: of the file system; empty when it has none.
        label: of the file system, printable, for people only.
        seqnum: the kernel's event number; 0 for what was there at start.
        disk: kernel name of the whole disk, ``sda``.
    """

    devnode: str
    action: Action = Action.ADD
    number: str = ""
    fs_type: str = ""
    fs_uuid: str = ""
    label: str = ""
    seqnum: int = 0
    disk: str = ""

    @property
    def insertion(self) -> tuple[str, str, str]:
        """What stays the same from one arrival to the next removal.

        The kernel's DISKSEQ is not part of it: a stick's first look at its medium counts as
        a media change and moves it on between ``add`` and ``change`` of one insertion.
        """
        return (self.devnode, self.fs_type, self.fs_uuid)
