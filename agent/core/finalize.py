"""What ``run`` must do, from what was promised and what actually booted.

In: the promise file, the pending row of ``sql.db``, what booted. Out: exactly one
`RunStep`. ``install`` asks the same question at its door: only `NOTHING` and `FORGET`
let it in.

The two stores can disagree only in the windows that a power cut leaves:

1. promise COPYING, no pending row: content may be half copied; nothing will boot.
2. promise STAGING, no pending row: the deployment was made, or it was not.
3. promise STAGED, no pending row: ``run`` finished but was cut before it forgot, or
   another agent finished the update.
4. pending row, no promise: another agent staged the update.
"""

from dataclasses import dataclass
from enum import Enum, auto

from agent.core.promise import Phase, Promise, PromiseKind
from agent.core.target import Target


class RunStep(Enum):
    """What to do next. Every member is carried out in `services.finish`."""

    NOTHING = auto()  # nothing was promised
    FORGET = auto()  # a promise stands, but nothing came of it
    KEPT = auto()  # everything was done, only the promise still stands
    AWAIT_REBOOT = auto()  # the new rootfs has not been booted yet
    START_APPS = auto()  # the promised commit runs: start its Apps
    BOOT_ROLLBACK = auto()  # the boot loader went back to the version before
    APP_ROLLBACK = auto()  # the way back from Apps that failed was cut short


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What `decide` looks at.

    Attributes:
        promise: the open promise of this agent.
        pending: the pending Target of ``sql.db``.
        current: the Target ``sql.db`` names for this boot.
        booted_commit: what runs.
        staged_commit: what the next boot starts, None when it is the same.
        rebooted: whether there was a boot since the update was staged.
    """

    promise: Promise | None
    pending: Target | None
    current: Target
    booted_commit: str
    staged_commit: str | None
    rebooted: bool


def decide(facts: RunFacts) -> RunStep:
    """Return the one step these facts call for."""
    promise = facts.promise
    if promise and promise.kind is PromiseKind.APP_ROLLBACK and promise.phase is not Phase.STAGED:
        return RunStep.APP_ROLLBACK
    if facts.pending:
        return _pending_step(facts.pending.commit, facts)
    if promise is None:
        return RunStep.NOTHING
    return _unrecorded_step(promise, facts)


def pending_target(facts: RunFacts) -> Target | None:
    """Return the Target the step is about."""
    if facts.pending:
        return facts.pending
    return facts.promise.target if facts.promise else None


def _pending_step(commit: str, facts: RunFacts) -> RunStep:
    if facts.booted_commit == commit:
        return RunStep.START_APPS
    return RunStep.BOOT_ROLLBACK if facts.rebooted else RunStep.AWAIT_REBOOT


def _unrecorded_step(promise: Promise, facts: RunFacts) -> RunStep:
    """Judge a promise that ``sql.db`` does not (or no longer) knows as pending."""
    done = facts.current.same_as(promise.target)
    if promise.phase is Phase.STAGED:
        return RunStep.KEPT if done else RunStep.FORGET
    if promise.phase is Phase.STAGING and promise.needs_boot:
        return RunStep.KEPT if done else _staging_step(promise, facts)
    return RunStep.FORGET


def _staging_step(promise: Promise, facts: RunFacts) -> RunStep:
    """Tell whether the deployment was made before the cut."""
    commit = promise.target.commit
    if facts.booted_commit == commit:
        return RunStep.START_APPS
    if facts.staged_commit != commit:
        return RunStep.FORGET
    # It is what the boot loader starts first, so a boot that did not start it gave it up.
    return RunStep.BOOT_ROLLBACK if facts.rebooted else RunStep.AWAIT_REBOOT
