"""What came of a command: exit statuses that carry their own sentence and next step.

The numbers are a contract with scripts that drive ``aklite-offline``. ``install`` and
``run`` use some of the same numbers for different news, so each command has an enum of
its own. ``--help``, text output, ``--json``, the documents and the record on the stick
all read ``meaning``; there is no second copy to drift.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Self


class NextStep(StrEnum):
    """What a person or a script does next; the value is the wire's spelling.

    The sentences name ``usb-update``, which is always there; a face that was called by
    another name says that one (`faces.text.spoken`).
    """

    sentence: str

    def __new__(cls, value: str, sentence: str) -> Self:
        """Attach the sentence to the member; see `ExitCode.__new__`."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    NOTHING = "nothing", "Nothing is left to do."
    RUN = "run", "Run 'usb-update run' to start the updated Apps."
    REBOOT_THEN_RUN = (
        "reboot-then-run",
        "Reboot the device; then 'usb-update run' finishes the update.",
    )
    REBOOT_THEN_INSTALL = "reboot-then-install", "Reboot the device, then install again."
    REBOOT_WHEN_CONVENIENT = (
        "reboot-when-convenient",
        "Reboot when convenient to confirm the new boot firmware.",
    )
    RUN_FIRST = "run-first", "Finish the earlier installation with 'usb-update run' first."
    INSTALL = "install", "Run 'usb-update install' with the same source."
    INSTALL_FIRST = "install-first", "Run 'usb-update install' first."
    NEW_BUNDLE = "new-bundle", "Ask for a new bundle; this one cannot be used on this device."
    CHECK_BUNDLE = "check-bundle", "Copy the bundle to the stick again, or ask for a new one."
    CHECK_DEVICE = "check-device", "Read the message above, mend the device, then try again."
    FORCE = "force", "Use --force to install the older version on purpose."


class ExitCode(IntEnum):
    """An exit status that carries its own sentence and next step."""

    meaning: str
    next_step: NextStep

    def __new__(cls, value: int, meaning: str, next_step: NextStep = NextStep.NOTHING) -> Self:
        """Make the number the value and keep the words beside it."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.next_step = next_step
        return member

    @classmethod
    def of(cls, number: int) -> Self:
        """Return the member with this number.

        Raises:
            KeyError: the command has no such exit status.
        """
        return {int(code): code for code in cls}[number]


class InstallExit(ExitCode):
    """Exit status of ``install``."""

    UP_TO_DATE = 0, "The device already runs this Target."
    FAILED = 1, "The command could not be carried out; nothing changed.", NextStep.CHECK_DEVICE
    METADATA_UPDATE_FAILED = (
        4,
        "The device's TUF metadata could not be updated from the bundle.",
        NextStep.NEW_BUNDLE,
    )
    NO_MATCHING_TARGET = (
        6,
        "No Target in the bundle matches this device's hardware ID and tag.",
        NextStep.NEW_BUNDLE,
    )
    CONTENT_MISSING = (
        8,
        "The bundle lacks the OSTree commit or Apps of its Target.",
        NextStep.CHECK_BUNDLE,
    )
    NEEDS_RUN = 10, "Installed; run starts the updated Apps.", NextStep.RUN
    METADATA_INVALID = 11, "The bundle's TUF metadata is invalid.", NextStep.NEW_BUNDLE
    METADATA_EXPIRED = 12, "The bundle's TUF metadata is expired.", NextStep.NEW_BUNDLE
    METADATA_NOT_FOUND = 14, "No TUF metadata was found in the source.", NextStep.CHECK_BUNDLE
    BUNDLE_INVALID = (
        15,
        "The bundle's own metadata was refused: signature, type or tag.",
        NextStep.NEW_BUNDLE,
    )
    INSTALLATION_IN_PROGRESS = (
        30,
        "An earlier installation is still waiting to be finished.",
        NextStep.RUN_FIRST,
    )
    PULL_FAILED = 50, "The Target's content could not be copied.", NextStep.CHECK_BUNDLE
    CONTENT_INVALID = (
        70,
        "The copied content is invalid: an App's compose file cannot be used.",
        NextStep.NEW_BUNDLE,
    )
    BOOT_FIRMWARE_PENDING = (
        90,
        "A reboot must complete the previous boot firmware update first.",
        NextStep.REBOOT_THEN_INSTALL,
    )
    NEEDS_REBOOT = (
        100,
        "Installed; the new rootfs starts at the next boot.",
        NextStep.REBOOT_THEN_RUN,
    )
    DOWNGRADE = 102, "The Target's version is lower than the one running.", NextStep.FORCE


class RunExit(ExitCode):
    """Exit status of ``run``."""

    OK = 0, "Finished: this Target's rootfs and Apps are running."
    FAILED = 1, "The command could not be carried out.", NextStep.CHECK_DEVICE
    OK_BOOT_FIRMWARE = (
        5,
        "Finished, boot firmware included; a reboot confirms the boot firmware.",
        NextStep.REBOOT_WHEN_CONVENIENT,
    )
    NOTHING_PENDING = 40, "There is no installation to finish.", NextStep.INSTALL_FIRST
    OK_BOOT_FIRMWARE_90 = (
        90,
        "Finished, boot firmware included; the older number for 5.",
        NextStep.REBOOT_WHEN_CONVENIENT,
    )
    BOOT_ROLLBACK = (
        99,
        (
            "The update failed and the previous version runs again: the new rootfs did not boot, "
            "or the Apps were put back without a reboot."
        ),
        NextStep.NEW_BUNDLE,
    )
    NEEDS_REBOOT = (
        100,
        (
            "A reboot is needed: the updated Apps did not start and the device is rolling back, "
            "or the new rootfs was not booted yet."
        ),
        NextStep.REBOOT_THEN_RUN,
    )
    BOOT_ROLLBACK_APPS_UNKNOWN = (
        110,
        "The new rootfs did not boot; the previous rootfs runs, but its Apps are unknown.",
        NextStep.CHECK_DEVICE,
    )
    ROLLBACK_FAILED = (
        120,
        "The updated Apps did not start and no previous version can be restored.",
        NextStep.CHECK_DEVICE,
    )


class CheckExit(ExitCode):
    """Exit status of ``check``: what ``install`` would answer, and 16 for an update."""

    UP_TO_DATE = 0, InstallExit.UP_TO_DATE.meaning
    FAILED = 1, InstallExit.FAILED.meaning, NextStep.CHECK_DEVICE
    METADATA_UPDATE_FAILED = 4, InstallExit.METADATA_UPDATE_FAILED.meaning, NextStep.NEW_BUNDLE
    NO_MATCHING_TARGET = 6, InstallExit.NO_MATCHING_TARGET.meaning, NextStep.NEW_BUNDLE
    CONTENT_MISSING = 8, InstallExit.CONTENT_MISSING.meaning, NextStep.CHECK_BUNDLE
    METADATA_INVALID = 11, InstallExit.METADATA_INVALID.meaning, NextStep.NEW_BUNDLE
    METADATA_EXPIRED = 12, InstallExit.METADATA_EXPIRED.meaning, NextStep.NEW_BUNDLE
    METADATA_NOT_FOUND = 14, InstallExit.METADATA_NOT_FOUND.meaning, NextStep.CHECK_BUNDLE
    BUNDLE_INVALID = 15, InstallExit.BUNDLE_INVALID.meaning, NextStep.NEW_BUNDLE
    UPDATE_FOUND = 16, "An update was found.", NextStep.INSTALL
    INSTALLATION_IN_PROGRESS = (
        30,
        InstallExit.INSTALLATION_IN_PROGRESS.meaning,
        NextStep.RUN_FIRST,
    )
    BOOT_FIRMWARE_PENDING = (
        90,
        InstallExit.BOOT_FIRMWARE_PENDING.meaning,
        NextStep.REBOOT_THEN_INSTALL,
    )
    DOWNGRADE = 102, InstallExit.DOWNGRADE.meaning, NextStep.FORCE


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one ``check``, ``install`` or ``run``.

    Attributes:
        exit: the command's exit status.
        target: name of the Target it was about; empty when none was chosen.
        reason: the finer cause, a stable ``snake_case`` word (docs/reasons.md).
        message: a sentence with the facts: what was expected, what was found, where.
        hint: what to do about it, when more can be said than the next step does.
        version: the Target's version, -1 when unknown.
    """

    exit: ExitCode
    target: str = ""
    reason: str = ""
    message: str = ""
    hint: str = ""
    version: int = -1

    @property
    def next_step(self) -> NextStep:
        """What to do next, as the exit status says it."""
        return self.exit.next_step
