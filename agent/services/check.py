"""``check``: read → verify → remember trust → decide.

In: a `Station` and a `Medium`. Out: a `Plan` or a `Refusal`. What was verified is
remembered even when nothing gets installed; nothing else on the device changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.core.errors import AgentError
from agent.core.finalize import RunFacts, RunStep, decide
from agent.core.outcome import InstallExit
from agent.core.policy import (
    DeviceFacts,
    Plan,
    Refusal,
    plan_install,
    select_target,
    time_to_remember,
    trusted_now,
    wanted_apps,
)
from agent.core.target import Target
from agent.log import get_logger
from agent.services.station import Station

if TYPE_CHECKING:  # an idle `run` looks at none
    from datetime import datetime

    from agent.core.bundle import Inventory, VerifiedBundle
    from agent.core.bundletype import BundleType
    from agent.ports import Medium

log = get_logger()

ENTER = (RunStep.NOTHING, RunStep.FORGET)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the device brings to every bundle of one visit: asked for once.

    Attributes:
        facts: the device.
        now: what expiry is judged by.
    """

    facts: DeviceFacts
    now: datetime


@dataclass(frozen=True, slots=True)
class Examined:
    """A bundle that was verified and remembered, and what the device makes of it.

    Attributes:
        bundle: verified.
        inventory: what content the medium claims to carry.
        facts: the device.
    """

    bundle: VerifiedBundle
    inventory: Inventory
    facts: DeviceFacts


def check(
    station: Station,
    medium: Medium,
    *,
    name: str = "",
    force: bool = False,
    automatic: bool = False,
) -> Plan | Refusal:
    """Say what ``install`` would do with this medium.

    Args:
        station: the device.
        medium: one bundle.
        name: only this Target is considered; empty means any.
        force: whether an older version is wanted on purpose.
        automatic: nobody is watching: a Target that rolled back here is not retried.

    Raises:
        BundleError: the bundle is refused; nothing of it is remembered.
        StateError, SysrootError: the device cannot say what it runs.
    """
    if refusal := closed_door(station):
        return refusal
    running = current(station).name
    station.callbacks.notify("check-for-update-pre", current=running)
    try:
        examined = examine(station, medium, stand(station))
    except AgentError as e:
        station.callbacks.notify(
            "check-for-update-post", current=running, result=f"FAILED: {e.message}"
        )
        raise
    decision = choose(station, examined, name=name, force=force, automatic=automatic)
    chosen = decision.target.name if decision.target else ""
    station.callbacks.notify("check-for-update-post", current=running, target=chosen, result="OK")
    return decision


def closed_door(station: Station) -> Refusal | None:
    """Return the refusal when an earlier installation waits for ``run``.

    A promise of which nothing came is forgotten here, so that the next attempt works.
    """
    facts = run_facts(station)
    step = decide(facts)
    if step in ENTER:
        if facts.promise and facts.staged_commit is None:
            # A cut may have left the boot loader counting boots of a rootfs that is good.
            station.bootenv.confirm_boot()
        station.ledger.forget()
        return None
    if step is RunStep.KEPT:
        # `run` finished it and was cut before it could say so; let it say so.
        log.info("promise.kept")
    return _in_progress(step, station.versions.pending())


def _in_progress(step: RunStep, pending: Target | None) -> Refusal:
    waits = step is RunStep.AWAIT_REBOOT
    what = f"{pending.name!r}" if pending else "an installation"
    return Refusal(
        InstallExit.INSTALLATION_IN_PROGRESS,
        "installation_in_progress",
        f"{what} waits for a restart of the device" if waits else f"{what} waits to be finished",
        "restart the device; then, without the service, run 'usb-update run'"
        if waits
        else "run 'usb-update run'",
        pending,
    )


def stand(station: Station) -> Standing:
    """Gather what every bundle is judged by."""
    # What runs unrecorded becomes the "Initial Target": there must be a way back to it.
    station.versions.ensure_initial(station.sysroot.booted_commit(), station.apps.installed())
    facts = device_facts(station)
    return Standing(facts, judging_time(station, facts.booted_commit))


def examine(
    station: Station, medium: Medium, standing: Standing, *, remember: bool = True
) -> Examined:
    """Verify a bundle, and remember its metadata.

    Args:
        station: the device.
        medium: one bundle.
        standing: what it is judged by.
        remember: whether the device keeps the bundle's metadata; off for a mere look.

    Raises:
        BundleError: it is refused; nothing of it is remembered.
    """
    from agent.core.verify import verify_bundle  # noqa: PLC0415  `run` needs no cryptography

    bundle = verify_bundle(
        medium.read(),
        station.trust.documents(),
        device_type=device_type(station),
        device_tags=station.policy.tags,
        now=standing.now,
        require_bundle_metadata=station.policy.require_bundle_metadata,
    )
    if remember:
        _remember(station, bundle, standing)
    log.info("bundle.verified", listed=list(bundle.listed), expires=bundle.expires.isoformat())
    return Examined(bundle, medium.inventory(bundle.targets), standing.facts)


def choose(
    station: Station,
    examined: Examined,
    *,
    name: str = "",
    force: bool = False,
    automatic: bool = False,
) -> Plan | Refusal:
    """Select a Target of a verified bundle and decide about it."""
    facts = examined.facts
    selected = select_target(
        examined.bundle.targets, examined.inventory, facts, name=name, automatic=automatic
    )
    if isinstance(selected, Refusal):
        return selected
    log.info("target.selected", target=selected.name, version=selected.version)
    in_sync = _apps_in_sync(station, selected, facts)
    decision = plan_install(selected, facts, apps_in_sync=in_sync, force=force)
    if isinstance(decision, Refusal):
        return decision
    return replace(decision, image=examined.bundle.image)


def run_facts(station: Station) -> RunFacts:
    """Gather what `finalize.decide` looks at."""
    booted = station.sysroot.booted_commit()
    promise = station.ledger.promised()
    other_boot = promise is not None and promise.boot_id != station.boots.boot_id()
    mark_gone = station.versions.reboot_needed() and not station.boots.awaited()
    return RunFacts(
        promise=promise,
        pending=station.versions.pending(),
        current=station.versions.current(booted),
        booted_commit=booted,
        staged_commit=station.sysroot.staged_commit(),
        rebooted=other_boot or mark_gone,
    )


def device_facts(station: Station) -> DeviceFacts:
    """Gather what `policy` looks at."""
    booted = station.sysroot.booted_commit()
    policy = station.policy
    return DeviceFacts(
        hardware_id=station.versions.hardware_id(),
        tags=policy.tags,
        current=station.versions.current(booted),
        booted_commit=booted,
        compose_apps=policy.compose_apps,
        reset_apps=policy.reset_apps,
        wants_apps=policy.wants_apps,
        firmware_update_pending=policy.block_on_firmware and _firmware_pending(station),
        quarantined=station.ledger.quarantined(),
    )


def current(station: Station) -> Target:
    """Return the Target that runs."""
    return station.versions.current(station.sysroot.booted_commit())


def device_type(station: Station) -> BundleType | None:
    """Return the device's type: configured, certified, or fixed by its first bundle."""
    return station.policy.device_type or station.ledger.bundle_type()


def judging_time(station: Station, booted_commit: str) -> datetime:
    """Return the time expiry is judged by: never earlier than what is known to be past."""
    clock = station.clock.now()
    floors = (station.ledger.last_seen_utc(), station.sysroot.committed_utc(booted_commit))
    now = trusted_now(clock, floors)
    if now != clock:
        log.warning("clock.distrusted", clock=clock.isoformat(), assumed=now.isoformat())
    return now


def _remember(station: Station, bundle: VerifiedBundle, standing: Standing) -> None:
    """Keep what was verified: roles, type, time. Each part is harmless without the others."""
    if bundle.bundle_type and station.policy.device_type is None:
        station.ledger.fix_bundle_type(bundle.bundle_type)
    station.trust.remember(bundle.documents)
    signed = (bundle.seen_utc, station.sysroot.committed_utc(standing.facts.booted_commit))
    if seen := time_to_remember(standing.now, signed):
        station.ledger.saw_utc(seen)


def _apps_in_sync(station: Station, target: Target, facts: DeviceFacts) -> bool:
    wanted = wanted_apps(target, facts)
    return not facts.wants_apps or station.apps.running(wanted)


def _firmware_pending(station: Station) -> bool:
    return station.bootenv.updates_firmware and station.bootenv.firmware_update_pending()
