"""One device with every tool in its place: what the services work with."""

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.core.bundletype import BundleType
from agent.ports import (
    Apps,
    BootEnv,
    Boots,
    Callbacks,
    Clock,
    Ledger,
    Progress,
    Sysroot,
    Trust,
    Versions,
)


def no_progress(_step: str, _done: int, _total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class DevicePolicy:
    """What the configuration decides; see docs/configuration.md for the keys.

    Attributes:
        tags: ``[pacman] tags``; empty means any.
        device_type: from the configuration or the client certificate; None when neither
            says it, then the first bundle does.
        compose_apps: None means all.
        reset_apps: Apps kept in the store as well.
        wants_apps: whether the device runs Compose Apps.
        require_bundle_metadata: whether ``bundle-targets.json`` must be there.
        block_on_firmware: whether an unconfirmed boot firmware update blocks a new rootfs.
        boot_firmware_exit: what ``run`` answers when boot firmware was updated, 5 or 90.
        prune: whether Apps and images that nothing needs are dropped after success.
    """

    tags: tuple[str, ...] = ()
    device_type: BundleType | None = None
    compose_apps: tuple[str, ...] | None = None
    reset_apps: tuple[str, ...] = ()
    wants_apps: bool = True
    require_bundle_metadata: bool = True
    block_on_firmware: bool = True
    boot_firmware_exit: int = 5
    prune: bool = True


@dataclass(frozen=True, slots=True)
class Station:
    """Every port of one device."""

    trust: Trust
    versions: Versions
    ledger: Ledger
    sysroot: Sysroot
    apps: Apps
    bootenv: BootEnv
    boots: Boots
    clock: Clock
    callbacks: Callbacks
    policy: DevicePolicy = field(default_factory=DevicePolicy)
    progress: Progress = no_progress
    make_correlation_id: Callable[[int], str] = field(default=lambda version: f"{version}-0")
