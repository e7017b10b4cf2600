"""A whole device in memory, whose power can be cut before and after every effect.

`World` puts the fakes of every port together and adds what no port is: a boot loader that
counts boots, a reboot, and a person with a stick. Its boot loader follows U-Boot's way:
with ``upgrade_available`` it counts, after three failed boots it sets ``rollback`` and
starts the second entry; without, it starts the first one for ever.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from agent.core.outcome import Outcome
from agent.core.target import AppRef, Target
from agent.services.attempt import attempt_install, attempt_run
from agent.services.finish import keep_promise
from agent.services.station import DevicePolicy, Station
from tests.factory import bundle, target_entry
from tests.fakes.apps import MemoryApps
from tests.fakes.bootenv import MemoryBootEnv
from tests.fakes.boots import MemoryBoots
from tests.fakes.callbacks import MemoryCallbacks
from tests.fakes.clock import MemoryClock
from tests.fakes.ledger import MemoryLedger
from tests.fakes.medium import MemoryMedium
from tests.fakes.sysroot import MemorySysroot
from tests.fakes.trust import MemoryTrust
from tests.fakes.versions import MemoryVersions

HARDWARE_ID = "raspberrypi4-64"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
BOOT_LIMIT = 3


class PowerCutError(BaseException):
    """Not an Exception: no handler may swallow a power cut."""


class BrickedError(AssertionError):
    """The boot loader finds nothing that boots, or would try for ever."""


@dataclass
class Fuse:
    """Counts down to the power cut; burns before and after every effect."""

    left: int = -1
    burnt: int = 0

    def effect(self, change: object) -> None:
        assert callable(change)
        self._spark()
        change()
        self._spark()

    def _spark(self) -> None:
        self.burnt += 1
        self.left -= 1
        if self.left == 0:
            raise PowerCutError


def app(name: str, digit: str) -> AppRef:
    return AppRef(name, f"hub.local/factory/{name}@sha256:{digit * 64}")


def release(
    version: int, *apps: AppRef, commit: str = "", hardware_id: str = HARDWARE_ID
) -> Target:
    """What a stick brings; the commit follows the version unless it is given."""
    return Target(
        f"lmp-{version}",
        version,
        commit or f"{version:x}" * 64,
        (hardware_id,),
        apps=tuple(sorted(apps)),
    )


OLD = release(1, app("shop", "a"))


@dataclass
class World:
    """One device, and the person beside it.

    Attributes:
        fuse: when the power fails.
        bad_commits: what does not boot.
    """

    fuse: Fuse = field(default_factory=Fuse)
    bad_commits: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        effect = self.fuse.effect
        self.sysroot = MemorySysroot.running(OLD.commit)
        self.sysroot.effect = effect
        self.apps = MemoryApps(effect=effect)
        self.apps.run_already(OLD.apps)
        self.bootenv = MemoryBootEnv({"upgrade_available": "0", "rollback": "0"}, effect=effect)
        self.boots = MemoryBoots(effect=effect)
        self.ledger = MemoryLedger(effect=effect)
        self.versions = MemoryVersions(HARDWARE_ID, effect=effect)
        self.trust = MemoryTrust(effect=effect)
        fuse, self.fuse.left = self.fuse.left, -1
        self.versions.save_current(OLD)
        self.fuse.left, self.fuse.burnt = fuse, 0

    @property
    def station(self) -> Station:
        return Station(
            trust=self.trust,
            versions=self.versions,
            ledger=self.ledger,
            sysroot=self.sysroot,
            apps=self.apps,
            bootenv=self.bootenv,
            boots=self.boots,
            clock=MemoryClock(NOW),
            callbacks=MemoryCallbacks(),
            policy=DevicePolicy(tags=("main",)),
        )

    # --- what a person does -------------------------------------------------------------

    def stick(self, *targets: Target) -> MemoryMedium:
        """Make a stick with these Targets and plug it in."""
        entries = {
            t.name: target_entry(
                version=str(t.version),
                commit=t.commit,
                hardware_ids=t.hardware_ids,
                apps={a.name: a.uri for a in t.apps},
            )
            for t in targets
        }
        medium = MemoryMedium(
            bundle(targets=entries, version=max(t.version for t in targets)).metadata,
            frozenset(t.commit for t in targets),
            frozenset(a.uri for t in targets for a in t.apps),
        )
        for target in targets:
            self.sysroot.offer(medium.ostree_repo, target.commit)
            self.apps.offer(medium.apps, target.apps)
        return medium

    def install(self, medium: MemoryMedium) -> Outcome:
        return attempt_install(self.station, medium)

    def run(self) -> Outcome:
        outcome = attempt_run(self.station)
        keep_promise(self.station, outcome)
        return outcome

    def reboot(self) -> None:
        """Switch off and on; the boot loader decides what comes up."""
        self.fuse.left = -1
        self.boots.reboot()
        self.apps.reboot()
        self._boot()

    # --- the boot loader ----------------------------------------------------------------

    def _boot(self) -> None:
        env, entries = self.bootenv.variables, self.sysroot.deployments
        for _ in range(BOOT_LIMIT + 1):
            rolled_back = env.get("rollback") == "1"
            if rolled_back and len(entries) < 2:
                raise BrickedError("the boot loader looks for an entry that is gone")
            entry = entries[1] if rolled_back else entries[0]
            if entry not in self.bad_commits:
                self.sysroot.booted = entry
                return
            self._count(env)
        raise BrickedError(f"nothing boots: {entries}")

    def _count(self, env: dict[str, str]) -> None:
        if env.get("upgrade_available") != "1":
            raise BrickedError("the first entry does not boot, and nobody counts")
        count = int(env.get("bootcount", "0")) + 1
        env["bootcount"] = str(count)
        if count >= BOOT_LIMIT:
            env["rollback"] = "1"

    # --- what must hold -----------------------------------------------------------------

    @property
    def current(self) -> Target:
        return self.versions.current(self.sysroot.booted_commit())

    def assert_whole(self, *versions: Target) -> None:
        """The device is one of these versions, all of it, and nothing is left open."""
        assert self.ledger.promised() is None
        assert self.versions.pending() is None
        assert self.sysroot.staged_commit() is None
        assert self.bootenv.variables.get("upgrade_available") == "0"
        assert self.bootenv.variables.get("rollback") == "0"
        assert self.current.name in {version.name for version in versions}
        whole = next(version for version in versions if version.name == self.current.name)
        assert (whole.commit, whole.apps) == (self.sysroot.booted, self.apps.running_now())
