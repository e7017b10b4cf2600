"""``install``: promise, copy, stage, confirm; in an order that a power cut cannot hurt.

Everything before ``stage`` is repeatable and invisible to the next boot. The promise is
written before each part that is not, so ``run`` understands whatever a cut leaves behind
(`core.finalize`).
"""

from dataclasses import replace

from agent.core.errors import AgentError, BootFirmwareError
from agent.core.outcome import InstallExit, Outcome
from agent.core.policy import Plan
from agent.core.promise import Phase, Promise
from agent.core.target import Target
from agent.log import get_logger
from agent.ports import Content, Medium
from agent.services.check import current
from agent.services.station import Station

log = get_logger()


def install(
    station: Station, medium: Medium, plan: Plan, *, origin: Promise | None = None
) -> Outcome:
    """Carry out a plan.

    Args:
        station: the device.
        medium: the bundle the plan was made from.
        plan: what to do.
        origin: a promise whose attempt, medium and start are taken over, for the record.

    Raises:
        PullError, NoSpaceError, StoreError, ComposeInvalidError: nothing was staged; the
            device is unchanged, and what was copied shortens the next attempt.
        StageError, BootEnvError, BootFirmwareError: likewise.
    """
    promise = _promise(station, plan, origin)
    station.ledger.promise(promise)
    try:
        copy(station, medium, plan)
        return _stage(station, plan, promise)
    except AgentError:
        if station.versions.pending() is None:
            _withdraw(station, plan)
        raise


def copy(station: Station, medium: Medium, plan: Plan) -> None:
    """Bring the Target's content to the device, every byte checked against its digest."""
    _notify(station, "download-pre", plan.target)
    try:
        _copy(station, medium, plan)
    except AgentError:
        _notify(station, "download-post", plan.target, "FAILED")
        raise
    _notify(station, "download-post", plan.target, "OK")


def stage_commit(station: Station, target: Target) -> None:
    """Make a commit the deployment of the next boot and record that it is awaited.

    Shared with the rollback of `services.finish`. Every step is idempotent.
    """
    station.bootenv.expect_new_rootfs()
    station.sysroot.stage(target.commit)
    log.info("deployment.staged", target=target.name, commit=target.commit)
    flag_newer_firmware(station, target)
    station.boots.await_reboot()
    _save_pending(station, target, needs_reboot=True)


def _promise(station: Station, plan: Plan, origin: Promise | None) -> Promise:
    fresh = Promise(
        target=plan.target,
        phase=Phase.COPYING,
        boot_id=station.boots.boot_id(),
        needs_boot=plan.needs_boot,
        previous_commit=station.sysroot.booted_commit(),
        started_utc=station.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    if origin is None:
        return fresh
    return replace(fresh, attempt=origin.attempt, fs_uuid=origin.fs_uuid)


def _copy(station: Station, medium: Medium, plan: Plan) -> None:
    if plan.needs_boot or plan.fetch:
        with medium.opened(plan.image, station.progress) as content:
            _copy_content(station, content, plan)
    for app in plan.fetch:
        station.apps.check(app)


def _copy_content(station: Station, content: Content, plan: Plan) -> None:
    target = plan.target
    if plan.needs_boot:
        station.sysroot.pull(content.ostree_repo, target.commit, station.progress)
        log.info("ostree.pulled", target=target.name, commit=target.commit)
    for app in plan.fetch:
        station.apps.fetch(content.apps, app, station.progress)
        log.info("app.fetched", app=app.name, digest=app.digest)


def _stage(station: Station, plan: Plan, promise: Promise) -> Outcome:
    target = plan.target
    _notify(station, "install-pre", target)
    if plan.needs_boot:
        _forbid_older_firmware(station, target)
    station.ledger.promise(replace(promise, phase=Phase.STAGING))
    if plan.needs_boot:
        stage_commit(station, target)
    else:
        _stay_on_this_commit(station)
        _save_pending(station, target, needs_reboot=False)
    station.ledger.promise(replace(promise, phase=Phase.STAGED))
    _notify(station, "install-post", target, "NEEDS_COMPLETION")
    code = InstallExit.NEEDS_REBOOT if plan.needs_boot else InstallExit.NEEDS_RUN
    return Outcome(code, target.name, "staged", "", "", target.version)


def _stay_on_this_commit(station: Station) -> None:
    """Remove a deployment someone else staged: the next boot is this commit again."""
    if staged := station.sysroot.staged_commit():
        station.sysroot.unstage(staged)


def _save_pending(station: Station, target: Target, *, needs_reboot: bool) -> None:
    correlation_id = station.make_correlation_id(target.version)
    station.versions.save_pending(target, needs_reboot=needs_reboot, correlation_id=correlation_id)


def _withdraw(station: Station, plan: Plan) -> None:
    """Leave the device as it was, after a failure before the promise was confirmed."""
    if plan.needs_boot and station.sysroot.staged_commit() == plan.target.commit:
        station.sysroot.unstage(plan.target.commit)
    station.boots.stop_waiting()
    station.ledger.forget()
    _notify(station, "install-post", plan.target, "FAILED")
    if plan.needs_boot:
        station.bootenv.confirm_boot()


def _forbid_older_firmware(station: Station, target: Target) -> None:
    """Refuse older boot firmware where the boot loader protects against it (§9.4)."""
    if not station.bootenv.updates_firmware or not station.bootenv.rollback_protected():
        return
    offered = station.sysroot.firmware_version(target.commit)
    if offered is None:
        return
    installed = station.bootenv.firmware_version() or ""
    if _number(offered, target) < (int(installed) if installed.isdecimal() else 0):
        raise BootFirmwareError(
            f"boot firmware {offered} of {target.name!r} is older than {installed}, "
            "and this device is protected against boot firmware rollback",
            hint="use a Target with the same or newer boot firmware",
        )


def _number(version: str, target: Target) -> int:
    if not version.isdecimal():
        raise BootFirmwareError(
            f"boot firmware version {version!r} of {target.name!r} is not a whole number",
            hint="a device with rollback protection needs a numeric bootfirmware_version",
        )
    return int(version)


def flag_newer_firmware(station: Station, target: Target) -> None:
    """Let the boot loader install the boot firmware this rootfs brings (§9.3)."""
    if not station.bootenv.updates_firmware:
        return
    offered = station.sysroot.firmware_version(target.commit)
    if offered and offered != station.bootenv.firmware_version():
        station.bootenv.flag_firmware_update()
        log.info("boot_firmware.flagged", target=target.name, version=offered)


def _notify(station: Station, message: str, target: Target, result: str = "") -> None:
    station.callbacks.notify(
        message, current=current(station).name, target=target.name, result=result
    )
