"""The promise: what this device has set out to do, durable before it is done.

A promise is written before the first effect and moved forward as effects complete, so
whatever a power cut leaves behind can be finished or undone (`finalize.decide`).
"""

from dataclasses import dataclass, field
from enum import StrEnum

from agent.core.target import Target


class Phase(StrEnum):
    """How far the effects of a promise have come."""

    COPYING = "copying"  # content is being copied; the next boot is not affected
    STAGING = "staging"  # the deployment may or may not have been made
    STAGED = "staged"  # the next boot (or `run`) starts the Target


class PromiseKind(StrEnum):
    """Why a Target was promised."""

    UPDATE = "update"
    APP_ROLLBACK = "app-rollback"  # back to the version before, because Apps failed


@dataclass(frozen=True, slots=True)
class Promise:
    """A Target this device is on its way to.

    Attributes:
        target: where it is going.
        phase: how far it has come.
        boot_id: the kernel's boot id when the promise was made.
        needs_boot: whether the commit differs from the running one.
        previous_commit: commit that ran when the promise was made.
        kind: an update, or the way back from one.
        failed: name of the Target rolled back from; only with ``APP_ROLLBACK``.
        attempt: id of the stick's attempt, joins the records before and after a reboot.
        fs_uuid: the stick's file system, so that the result finds its way back.
        started_utc: when, ISO 8601 with Z.
    """

    target: Target
    phase: Phase
    boot_id: str
    needs_boot: bool
    previous_commit: str
    kind: PromiseKind = PromiseKind.UPDATE
    failed: str = ""
    attempt: str = ""
    fs_uuid: str = ""
    started_utc: str = field(default="")
