"""``run``: finish what was promised: start the Apps, or admit a rollback.

In: a `Station` after an install, usually after a reboot. Out: an `Outcome` with a
`RunExit`. Every step may be cut by the power and repeated; `core.finalize` says from
where to go on.
"""

from collections.abc import Callable
from dataclasses import replace

from agent.core.errors import AppStartError
from agent.core.finalize import RunFacts, RunStep, decide, pending_target
from agent.core.outcome import Outcome, RunExit
from agent.core.policy import required_apps, wanted_apps
from agent.core.promise import Phase, Promise, PromiseKind
from agent.core.target import UNKNOWN_NAME, Target
from agent.log import get_logger
from agent.services.check import current, device_facts, run_facts
from agent.services.install import flag_newer_firmware, stage_commit
from agent.services.station import Station

log = get_logger()


def finish(station: Station) -> Outcome:
    """Do what the promise and the boot call for.

    The promise stands until `keep_promise` is called: the caller first writes down what
    happened, so that no result is lost to a power cut.

    Raises:
        StateError, SysrootError, StageError: the device is as it was; run again.
    """
    if _is_idle(station):
        return _idle()
    facts = run_facts(station)
    step = decide(facts)
    log.info("run.decided", step=step.name.lower())
    return STEPS[step](station, facts)


def keep_promise(station: Station, outcome: Outcome) -> None:
    """Drop the promise, unless the outcome still waits for a reboot."""
    if outcome.exit is not RunExit.NEEDS_REBOOT:
        station.ledger.forget()


def _is_idle(station: Station) -> bool:
    """Whether nothing is open and no boot loader waits: then the sysroot need not be asked."""
    if station.bootenv.counts_boots or station.ledger.promised():
        return False
    return station.versions.pending() is None


def _idle() -> Outcome:
    return Outcome(RunExit.NOTHING_PENDING, reason="nothing_pending")


def _nothing(station: Station, facts: RunFacts) -> Outcome:
    if facts.staged_commit is None:
        station.bootenv.confirm_boot()
    return _idle()


def _kept(station: Station, facts: RunFacts) -> Outcome:
    return _success(station, facts.current)


def _await_reboot(station: Station, facts: RunFacts) -> Outcome:
    """Answer 100; and write down what a cut in `install` left unwritten."""
    target = _target(facts)
    if facts.pending is None and facts.promise:
        stage_commit(station, target)
        station.ledger.promise(replace(facts.promise, phase=Phase.STAGED))
    return _outcome(
        RunExit.NEEDS_REBOOT,
        target,
        "not_rebooted",
        f"{target.name!r} is staged, but the device was not rebooted since",
    )


def _start_apps(station: Station, facts: RunFacts) -> Outcome:
    target = _target(facts)
    station.callbacks.notify("install-final-pre", current=current(station).name, target=target.name)
    if facts.pending is None:
        _record_unwritten(station, target)
    try:
        _start_exactly(station, target)
    except AppStartError as e:
        return _leave(station, facts, target, e)
    return _succeed(station, facts, target)


def _record_unwritten(station: Station, target: Target) -> None:
    """Write down what a cut in `install` left unwritten: this boot runs ``target``."""
    flag_newer_firmware(station, target)
    station.versions.save_pending(
        target,
        needs_reboot=False,
        correlation_id=station.make_correlation_id(target.version),
    )


def _start_exactly(station: Station, target: Target) -> None:
    """Run the Target's Apps and no others."""
    if not station.policy.wants_apps:
        return
    wanted = wanted_apps(target, device_facts(station))
    station.apps.stop_all_but(wanted)
    for app in wanted:
        station.apps.start(app)
        log.info("app.started", app=app.name, digest=app.digest)


def _succeed(station: Station, facts: RunFacts, target: Target) -> Outcome:
    station.bootenv.confirm_boot()
    station.boots.stop_waiting()
    station.versions.save_current(target)
    station.callbacks.notify("install-post", current=target.name, target=target.name, result="OK")
    outcome = _success(station, target)
    return _said_as_rollback(outcome, facts) if _is_way_back(facts) else outcome


def _said_as_rollback(outcome: Outcome, facts: RunFacts) -> Outcome:
    failed = facts.promise.failed if facts.promise else ""
    message = f"{outcome.target!r} runs again; the Apps of {failed!r} had not started"
    return replace(outcome, reason="rolled_back", message=message)


def _success(station: Station, target: Target) -> Outcome:
    """Tidy up and say how it went. Content is dropped only here: a rollback needs it."""
    if station.policy.prune:
        station.sysroot.prune()
        if station.policy.wants_apps:
            station.apps.prune(required_apps(target, device_facts(station)))
    bootenv = station.bootenv
    if bootenv.updates_firmware and bootenv.firmware_update_pending():
        code = RunExit.of(station.policy.boot_firmware_exit)
        return _outcome(code, target, "boot_firmware_updated")
    return _outcome(RunExit.OK, target, "updated")


# --- the boot loader went back ---------------------------------------------------------


def _boot_rollback(station: Station, facts: RunFacts) -> Outcome:
    failed = _target(facts)
    reason = "the new rootfs did not boot"
    _drop_deployment(station, failed)
    _record_failure(station, failed, reason)
    runs = current(station)
    if runs.name == UNKNOWN_NAME:
        return _outcome(
            RunExit.BOOT_ROLLBACK_APPS_UNKNOWN,
            failed,
            "boot_rollback_unknown",
            f"{failed.name!r} did not boot; what runs now, commit {runs.commit}, is not recorded "
            "on this device, so its Apps are unknown",
        )
    return _restore(station, failed, runs, "boot_rollback", f"{failed.name!r} did not boot")


def _drop_deployment(station: Station, failed: Target) -> None:
    """Take the deployment that did not boot out of the boot entries.

    Boot counting stays on until the entry is gone: cut before, the boot loader tries it
    once more and comes back here; it never finds its "rollback" entry missing.
    """
    if station.sysroot.staged_commit() == failed.commit:
        station.bootenv.expect_new_rootfs()
        station.sysroot.unstage(failed.commit)
        log.info("deployment.removed", target=failed.name, commit=failed.commit)
    station.bootenv.confirm_boot()
    station.boots.stop_waiting()


def _restore(
    station: Station, failed: Target, previous: Target, reason: str, message: str
) -> Outcome:
    """Make sure that the previous version's Apps run, without a reboot."""
    try:
        _restart_if_needed(station, previous)
    except AppStartError as e:
        return _outcome(
            RunExit.ROLLBACK_FAILED,
            failed,
            f"{reason}_apps_failed",
            f"{message}, and the Apps of {previous.name!r} do not start: {e.message}",
            e.hint,
        )
    station.versions.save_current(previous)
    return _outcome(
        RunExit.BOOT_ROLLBACK, failed, reason, f"{message}; {previous.name!r} runs again"
    )


def _restart_if_needed(station: Station, target: Target) -> None:
    wanted = wanted_apps(target, device_facts(station))
    if station.policy.wants_apps and not station.apps.running(wanted):
        _start_exactly(station, target)


# --- the Apps did not start ------------------------------------------------------------


def _leave(station: Station, facts: RunFacts, failed: Target, cause: AppStartError) -> Outcome:
    """Give up a Target whose Apps did not start: back to the version before."""
    log.error("app.failed", target=failed.name, message=cause.message)
    if _is_way_back(facts):
        return _stuck_on_previous(station, failed, cause)
    previous = station.versions.rollback_target(failed)
    if previous is None:
        return _stranded(station, failed, cause)
    promise = _way_back(station, facts, failed, previous)
    # From here on every power cut ends in the previous version.
    station.ledger.promise(promise)
    _record_failure(station, failed, cause.message)
    return _go_back(station, promise, failed, cause.message)


def _way_back(station: Station, facts: RunFacts, failed: Target, previous: Target) -> Promise:
    return Promise(
        target=previous,
        phase=Phase.STAGING,
        boot_id=station.boots.boot_id(),
        needs_boot=previous.commit != facts.booted_commit,
        previous_commit=facts.booted_commit,
        kind=PromiseKind.APP_ROLLBACK,
        failed=failed.name,
        attempt=facts.promise.attempt if facts.promise else "",
        fs_uuid=facts.promise.fs_uuid if facts.promise else "",
    )


def _app_rollback(station: Station, facts: RunFacts) -> Outcome:
    """Go on with a way back that was cut short."""
    promise = facts.promise
    if promise is None:
        raise AssertionError("decide() answers APP_ROLLBACK only with a promise")
    if facts.pending and facts.pending.name == promise.failed:
        _record_failure(station, facts.pending, "its Apps did not start")
    failed = replace(promise.target, name=promise.failed)
    if facts.booted_commit == promise.target.commit and promise.needs_boot:
        return _start_apps(station, replace(facts, pending=promise.target))
    return _go_back(station, promise, failed, "its Apps did not start")


def _go_back(station: Station, promise: Promise, failed: Target, why: str) -> Outcome:
    previous = promise.target
    message = f"Apps of {failed.name!r} did not start: {why}"
    if not promise.needs_boot:
        return _restore(station, failed, previous, "app_rollback", message)
    if not station.sysroot.has_commit(previous.commit):
        return _outcome(RunExit.ROLLBACK_FAILED, failed, "rollback_commit_missing", message)
    stage_commit(station, previous)
    station.ledger.promise(replace(promise, phase=Phase.STAGED))
    return _outcome(
        RunExit.NEEDS_REBOOT,
        failed,
        "app_rollback",
        f"{message}; after a reboot {previous.name!r} runs again",
    )


def _stranded(station: Station, failed: Target, cause: AppStartError) -> Outcome:
    """There is no version to go back to: stay on this rootfs and say so."""
    station.boots.stop_waiting()
    _record_failure(station, failed, cause.message)
    return _outcome(
        RunExit.ROLLBACK_FAILED,
        failed,
        "rollback_target_unknown",
        f"Apps of {failed.name!r} did not start ({cause.message}), and no earlier version is "
        "recorded to go back to",
        cause.hint,
    )


def _stuck_on_previous(station: Station, previous: Target, cause: AppStartError) -> Outcome:
    """Admit that the version before is booted again, but its Apps do not start either."""
    station.boots.stop_waiting()
    station.versions.save_current(previous)
    return _outcome(
        RunExit.ROLLBACK_FAILED,
        previous,
        "rollback_apps_failed",
        f"{previous.name!r} is booted again, but its Apps do not start: {cause.message}",
        cause.hint,
    )


def _is_way_back(facts: RunFacts) -> bool:
    return facts.promise is not None and facts.promise.kind is PromiseKind.APP_ROLLBACK


def _record_failure(station: Station, failed: Target, reason: str) -> None:
    station.ledger.quarantine(failed, reason)
    station.versions.save_failed(failed)
    station.callbacks.notify(
        "install-post", current=current(station).name, target=failed.name, result="FAILED"
    )


def _target(facts: RunFacts) -> Target:
    target = pending_target(facts)
    if target is None:
        raise AssertionError("decide() answers this step only with a Target")
    return target


def _outcome(
    code: RunExit, target: Target, reason: str, message: str = "", hint: str = ""
) -> Outcome:
    return Outcome(code, target.name, reason, message, hint, target.version)


STEPS: dict[RunStep, Callable[[Station, RunFacts], Outcome]] = {
    RunStep.NOTHING: _nothing,
    RunStep.FORGET: _nothing,
    RunStep.KEPT: _kept,
    RunStep.AWAIT_REBOOT: _await_reboot,
    RunStep.START_APPS: _start_apps,
    RunStep.BOOT_ROLLBACK: _boot_rollback,
    RunStep.APP_ROLLBACK: _app_rollback,
}
