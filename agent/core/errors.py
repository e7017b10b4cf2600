"""Failures, each with its exit status: the table of failures is the list of classes.

Decisions (nothing to do, no match, a downgrade) are values, see `policy.Refusal`.
A `BundleError` means the stick is at fault and the device is not; a `DeviceError` means
the same bundle may work elsewhere or later. Adapters raise these at their edge, chained
to what they caught; services do not catch them.
"""

import re
from typing import ClassVar

from agent.core.outcome import ExitCode, InstallExit, RunExit


class AgentError(Exception):
    """An expected failure, told to a person in one sentence.

    Args:
        message: expected, found, where; names in single quotes, no full stop needed.
        hint: what to do about it.

    Attributes:
        exit: the exit status of the command that met it.
        reason: stable ``snake_case`` word for records and ``--json``.
    """

    exit: ClassVar[ExitCode] = InstallExit.FAILED
    reason: ClassVar[str] = "agent"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __init_subclass__(cls, *, exit: ExitCode | None = None) -> None:
        """Take the leaf's exit status, and its reason from its name."""
        super().__init_subclass__()
        if exit is not None:
            cls.exit = exit
        words = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Error"))
        cls.reason = words.lower()


class BundleError(AgentError):
    """The bundle on the medium is at fault; the device is not."""


class DeviceError(AgentError):
    """The device is at fault; the same bundle may work elsewhere or later."""


# --- TUF metadata (reference-behaviour §2.8) -------------------------------------------


class MetadataUpdateError(BundleError, exit=InstallExit.METADATA_UPDATE_FAILED):
    """Signatures, threshold, version agreement or the root chain of a role do not hold."""


class MetadataInvalidError(BundleError, exit=InstallExit.METADATA_INVALID):
    """A role's document is malformed, of the wrong type, or differs from its hash."""


class MetadataRollbackError(BundleError, exit=InstallExit.METADATA_INVALID):
    """A role is older than the one this device already trusts."""


class MetadataExpiredError(BundleError, exit=InstallExit.METADATA_EXPIRED):
    """A role, or the bundle itself, is past its expiry."""


class MetadataNotFoundError(BundleError, exit=InstallExit.METADATA_NOT_FOUND):
    """A role's document is not in the source."""


# --- the bundle's own metadata ---------------------------------------------------------


class BundleMetadataMissingError(BundleError, exit=InstallExit.BUNDLE_INVALID):
    """There is no ``bundle-targets.json``."""


class BundleMetadataInvalidError(BundleError, exit=InstallExit.BUNDLE_INVALID):
    """``bundle-targets.json`` is malformed."""


class BundleSignatureError(BundleError, exit=InstallExit.BUNDLE_INVALID):
    """A signature of ``bundle-targets.json`` or a pack is bad, a stranger's, or too few signed."""


class PackInvalidError(BundleError, exit=InstallExit.BUNDLE_INVALID):
    """A pack's header is malformed, or its file is shorter or longer than the header says."""


class BundleTypeError(BundleError, exit=InstallExit.BUNDLE_INVALID):
    """CI Targets for a production device, or the other way round."""


class BundleTagError(BundleError, exit=InstallExit.BUNDLE_INVALID):
    """The bundle's tag is not one of the device's."""


# --- content ---------------------------------------------------------------------------


class PullError(BundleError, exit=InstallExit.PULL_FAILED):
    """Copying a commit or an App to the device failed: the medium's content is at fault."""


class NoSpaceError(DeviceError, exit=InstallExit.PULL_FAILED):
    """The device lacks the space for the Target's content."""


class StoreError(DeviceError, exit=InstallExit.PULL_FAILED):
    """Writing the Target's content to the device failed."""


class ComposeInvalidError(BundleError, exit=InstallExit.CONTENT_INVALID):
    """An App's archive or compose file cannot be used."""


# --- the door --------------------------------------------------------------------------


class FileSystemRefusedError(BundleError, exit=InstallExit.METADATA_NOT_FOUND):
    """The medium holds no file system, or one that is never mounted."""


class MountError(BundleError, exit=InstallExit.METADATA_NOT_FOUND):
    """The medium cannot be mounted, or was pulled out."""


# --- the device ------------------------------------------------------------------------


class UsageError(DeviceError):
    """The command line or the source directory is wrong."""


class ConfigError(DeviceError):
    """A configuration file cannot be used."""


class LockedError(DeviceError):
    """Another update agent is at work."""


class StateError(DeviceError):
    """The device's database or ledger cannot be read or written."""


class SysrootError(DeviceError):
    """The OSTree sysroot is not as it must be."""


class StageError(DeviceError):
    """Making the new deployment failed; the device boots as before."""


class BootEnvError(DeviceError):
    """The boot loader's environment cannot be read or written."""


class BootFirmwareError(DeviceError):
    """The Target's boot firmware is older than the device's, which forbids that."""


class AppError(DeviceError):
    """The Docker engine or the compose program is not as it must be."""


class AppStartError(DeviceError, exit=RunExit.NEEDS_REBOOT):
    """An App's images could not be loaded or its services did not start."""


class RebootError(DeviceError):
    """The reboot could not be started."""


class RebootInhibitedError(RebootError):
    """A program asked the device not to reboot now."""
