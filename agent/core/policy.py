"""What to do about a bundle: `VerifiedBundle` and `DeviceFacts` in, `Plan` or `Refusal` out.

Every Target passes the same gates in the same order, and the gate that closed is part of
the answer, so that ``plan`` can explain each one. Nothing here reads or changes a device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from agent.core.outcome import InstallExit, Outcome
from agent.core.target import AppRef, Target

if TYPE_CHECKING:  # an idle `run` looks at none
    from agent.core.bundle import Inventory, SealedImage

OSTREE_FORMAT = "OSTREE"
ALL_APPS = "*"

# How far the system clock alone may move the trusted time past what was signed. A clock
# that jumped to 2100 must not make every later bundle look expired for good.
CLOCK_LEAP_LIMIT = timedelta(days=2 * 366)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a decision needs to know of the device.

    Attributes:
        hardware_id: as recorded at first start.
        tags: release channels it follows; empty means any.
        current: the Target that runs.
        booted_commit: OSTree commit of this boot.
        compose_apps: names of the Apps it wants; None means all.
        reset_apps: names of Apps to keep in the store as well; ``*`` means all.
        wants_apps: whether it runs Compose Apps at all (``[pacman] type``).
        firmware_update_pending: an earlier boot firmware update blocks a new rootfs.
        quarantined: `quarantine_key` to reason; gates only the automatic path.
    """

    hardware_id: str
    tags: tuple[str, ...]
    current: Target
    booted_commit: str
    compose_apps: tuple[str, ...] | None = None
    reset_apps: tuple[str, ...] = ()
    wants_apps: bool = True
    firmware_update_pending: bool = False
    quarantined: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``install`` will do.

    Attributes:
        target: where the device goes; its Apps are those the bundle carries.
        fetch: Apps that must be whole in the device's store.
        needs_boot: whether the commit differs from the running one.
        image: where a bundle in one file keeps the content; None for a directory.
    """

    target: Target
    fetch: tuple[AppRef, ...]
    needs_boot: bool
    image: SealedImage | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing is installed. A decision, not a failure.

    Attributes:
        exit: ``install``'s exit status.
        reason: stable ``snake_case`` word.
        message: expected, found.
        hint: what to do.
        target: the Target it is about; None when it is about the bundle.
    """

    exit: InstallExit
    reason: str
    message: str
    hint: str = ""
    target: Target | None = None

    def outcome(self) -> Outcome:
        """Say it as the command's outcome."""
        name, version = (self.target.name, self.target.version) if self.target else ("", -1)
        return Outcome(self.exit, name, self.reason, self.message, self.hint, version)


def quarantine_key(target: Target) -> str:
    """Name a Target by its content: another commit or other Apps are another key."""
    return " ".join((target.name, target.commit, *(app.digest for app in target.apps)))


def wanted_apps(target: Target, facts: DeviceFacts) -> tuple[AppRef, ...]:
    """Return the Apps of ``target`` that this device runs."""
    if not facts.wants_apps:
        return ()
    return tuple(
        app for app in target.apps if facts.compose_apps is None or app.name in facts.compose_apps
    )


def required_apps(target: Target, facts: DeviceFacts) -> tuple[AppRef, ...]:
    """Return the Apps that must be in the store: the wanted ones and ``reset_apps``."""
    if not facts.wants_apps:
        return ()
    kept = set(wanted_apps(target, facts))
    every = ALL_APPS in facts.reset_apps
    kept.update(app for app in target.apps if every or app.name in facts.reset_apps)
    return tuple(sorted(kept))


def carried(target: Target) -> Target:
    """Reduce a Target to the Apps its bundle carries (``fetched-apps``)."""
    if target.fetched is None:
        return target
    return target.with_apps(tuple(app for app in target.apps if app.name in target.fetched))


def gate(
    target: Target, inventory: Inventory, facts: DeviceFacts, *, automatic: bool = False
) -> Refusal | None:
    """Return why this device cannot take ``target``, or None when it can.

    The gates, in order: 1 format, 2 tag, 3 hardware ID, 4 content, 5 quarantine.
    """
    return (
        _fits(target, facts)
        or _is_carried(target, inventory, facts)
        or (_is_quarantined(target, facts) if automatic else None)
    )


def select_target(
    targets: Sequence[Target],
    inventory: Inventory,
    facts: DeviceFacts,
    *,
    name: str = "",
    automatic: bool = False,
) -> Target | Refusal:
    """Choose the Target with the highest version that passes every gate.

    Args:
        targets: the bundle's, verified.
        inventory: what content the bundle claims to carry.
        facts: the device.
        name: only this one is considered; empty means any.
        automatic: nobody is watching, so a Target that rolled back here is not retried.
    """
    named = [target for target in targets if name in ("", target.name)]
    if not named:
        return _none_named(targets, name)
    refusals = {t.name: gate(t, inventory, facts, automatic=automatic) for t in named}
    fitting = [carried(target) for target in named if refusals[target.name] is None]
    if not fitting:
        return _closest(refusal for refusal in refusals.values() if refusal)
    return max(fitting, key=lambda target: (target.version, target.name))


def plan_install(
    target: Target, facts: DeviceFacts, *, apps_in_sync: bool, force: bool = False
) -> Plan | Refusal:
    """Decide what to do about the selected Target.

    Args:
        target: what `select_target` chose.
        facts: the device.
        apps_in_sync: whether exactly its wanted Apps run already.
        force: whether an older version is wanted on purpose.
    """
    needs_boot = target.commit != facts.booted_commit
    if target.version < facts.current.version and not force:
        return _downgrade(target, facts.current)
    if not needs_boot and apps_in_sync and _runs(target, facts):
        return Refusal(
            InstallExit.UP_TO_DATE,
            "already_installed",
            f"commit {target.commit[:12]} is booted, and the Apps this device wants run",
            "",
            target,
        )
    if needs_boot and facts.firmware_update_pending:
        return Refusal(
            InstallExit.BOOT_FIRMWARE_PENDING,
            "boot_firmware_pending",
            "the boot firmware of the previous update is not confirmed yet",
            "reboot the device",
            target,
        )
    return Plan(target, required_apps(target, facts), needs_boot)


def trusted_now(clock: datetime, floors: Iterable[datetime | None]) -> datetime:
    """Return the latest of the clock and every time that is known to have passed."""
    return max([clock, *(floor for floor in floors if floor is not None)])


def time_to_remember(now: datetime, signed: Iterable[datetime | None]) -> datetime | None:
    """Return how far the lower bound of the time may move after a good verification.

    Args:
        now: the time the verification was judged by.
        signed: times that signed content vouches for.

    Returns:
        At most `CLOCK_LEAP_LIMIT` past the newest signed time; None without any.
    """
    known = [when for when in signed if when is not None]
    return min(now, max(known) + CLOCK_LEAP_LIMIT) if known else None


def _fits(target: Target, facts: DeviceFacts) -> Refusal | None:
    if target.target_format != OSTREE_FORMAT:
        return _no_match(target, "format", OSTREE_FORMAT, target.target_format)
    if facts.tags and not set(facts.tags) & set(target.tags):
        return _no_match(target, "tag", " or ".join(facts.tags), ", ".join(target.tags))
    if target.hardware_ids != (facts.hardware_id,):
        found = ", ".join(target.hardware_ids)
        return _no_match(target, "hardware_id", facts.hardware_id, found)
    return None


def _no_match(target: Target, gate_name: str, expected: str, found: str) -> Refusal:
    words = gate_name.replace("_id", " ID")
    return Refusal(
        InstallExit.NO_MATCHING_TARGET,
        f"{gate_name}_mismatch",
        f"{target.name!r} is for {words} {found or 'none'!r}; this device has {expected!r}",
        f"use a bundle made for {words} {expected!r}",
        target,
    )


def _is_carried(target: Target, inventory: Inventory, facts: DeviceFacts) -> Refusal | None:
    if target.commit not in inventory.commits:
        return _missing(target, f"OSTree commit {target.commit}", "commit_missing")
    for app in required_apps(carried(target), facts):
        if app.uri not in inventory.app_uris:
            return _missing(target, f"App {app.name!r} ({app.uri})", "app_missing")
    return None


def _missing(target: Target, what: str, reason: str) -> Refusal:
    return Refusal(
        InstallExit.CONTENT_MISSING,
        reason,
        f"the bundle lacks {what} of {target.name!r}",
        "copy the whole bundle to the stick again",
        target,
    )


def _is_quarantined(target: Target, facts: DeviceFacts) -> Refusal | None:
    why = facts.quarantined.get(quarantine_key(carried(target)))
    if why is None:
        return None
    return Refusal(
        InstallExit.NO_MATCHING_TARGET,
        "quarantined",
        f"{target.name!r} was tried on this device and rolled back: {why}",
        f"use a corrected bundle, or 'usb-update forgive {target.name}' to try again",
        target,
    )


def _none_named(targets: Sequence[Target], name: str) -> Refusal:
    if name:
        found = ", ".join(target.name for target in targets) or "none"
        message = f"the bundle lists no Target {name!r}; it lists {found}"
    else:
        message = "none of the Targets the bundle lists is in its targets.json"
    return Refusal(
        InstallExit.NO_MATCHING_TARGET, "target_not_listed", message, "ask for a new bundle"
    )


def _closest(refusals: Iterable[Refusal]) -> Refusal:
    """Return the refusal that came furthest: what a person most likely has to mend."""
    return max(refusals, key=lambda refusal: (_depth(refusal), _version(refusal)))


def _depth(refusal: Refusal) -> int:
    order = ("format_mismatch", "tag_mismatch", "hardware_id_mismatch")
    return order.index(refusal.reason) if refusal.reason in order else len(order)


def _version(refusal: Refusal) -> int:
    return refusal.target.version if refusal.target else -1


def _downgrade(target: Target, current: Target) -> Refusal:
    return Refusal(
        InstallExit.DOWNGRADE,
        "downgrade",
        f"{target.name!r} has version {target.version}, lower than {current.version} "
        f"of {current.name!r} that runs",
        "use a newer bundle, or --force",
        target,
    )


def _runs(target: Target, facts: DeviceFacts) -> bool:
    current = facts.current
    return (target.name, target.version, target.commit, wanted_apps(target, facts)) == (
        current.name,
        current.version,
        current.commit,
        wanted_apps(current, facts),
    )
