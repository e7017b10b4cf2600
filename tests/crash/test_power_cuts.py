"""The power fails before or after every single effect; the device stays whole."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import pytest

from agent.core.outcome import InstallExit, Outcome
from agent.core.policy import Refusal
from agent.core.target import Target
from agent.services.attempt import attempt
from agent.services.check import check
from agent.services.install import install
from tests.fakes.medium import MemoryMedium
from tests.fakes.world import OLD, Fuse, PowerCutError, World, app, release

NEW = release(2, app("shop", "b"), app("db", "c"))
APPS_ONLY = release(2, app("shop", "b"), commit=OLD.commit)


def fuses(story: Callable[[World], None], **device: object) -> Iterator[tuple[World, bool]]:
    """Run the story once for each moment the power may fail, and once without."""
    for moment in count(1):
        world = World(Fuse(moment), **device)
        try:
            story(world)
        except PowerCutError:
            yield world, True
            continue
        yield world, False
        return


def settle(world: World) -> Outcome:
    """What the device does by itself after the power is back: boot, run; again if asked."""
    world.reboot()
    outcome = world.run()
    while outcome.exit == 100:
        world.reboot()
        outcome = world.run()
    return outcome


def update(world: World, target: Target) -> None:
    """Plug in, install, reboot if asked, run until nothing is asked any more."""
    left = world.fuse.left
    stick = world.stick(target)
    world.fuse.left = left
    outcome = world.install(stick)
    while outcome.exit in (10, 100):
        if outcome.exit == 100:
            reboot_under_fuse(world)
        outcome = world.run()


def reboot_under_fuse(world: World) -> None:
    left = world.fuse.left
    world.reboot()
    world.fuse.left = left


@pytest.mark.parametrize("target", [NEW, APPS_ONLY], ids=["rootfs-and-apps", "apps-only"])
def test_a_power_cut_anywhere_leaves_a_whole_device_and_a_retry_works(target: Target) -> None:
    moments = 0
    for world, cut in fuses(lambda w: update(w, target)):
        settle(world)
        world.assert_whole(OLD, target)

        update(world, target)
        world.assert_whole(target)
        moments += cut
    assert moments > 30


def test_a_power_cut_during_a_boot_rollback_never_bricks() -> None:
    for world, _ in fuses(lambda w: update(w, NEW), bad_commits={NEW.commit}):
        settle(world)
        world.assert_whole(OLD)


def test_a_power_cut_during_an_app_rollback_ends_in_the_old_version() -> None:
    def story(world: World) -> None:
        world.apps.break_app(NEW.apps[0])
        update(world, NEW)

    for world, _ in fuses(story):
        settle(world)
        world.assert_whole(OLD)


def test_a_power_cut_during_an_app_rollback_without_a_boot() -> None:
    def story(world: World) -> None:
        world.apps.break_app(APPS_ONLY.apps[0])
        update(world, APPS_ONLY)

    for world, _ in fuses(story):
        settle(world)
        world.assert_whole(OLD)


def test_a_killed_install_leaves_no_boot_counting_behind() -> None:
    """Killed, not powered off: the next stick is refused, and nobody calls `run`."""
    for world, _ in fuses(lambda w: update(w, NEW)):
        world.fuse.left = -1
        outcome = world.install(world.stick(release(2, hardware_id="another board")))
        if outcome.exit == 30:
            continue

        assert outcome.exit == 6
        assert world.ledger.promised() is None
        assert world.bootenv.variables["upgrade_available"] == "0"


def test_two_cuts_in_a_row() -> None:
    """The power comes back and fails again while the device recovers."""
    for first in range(1, 60, 3):
        for second in range(1, 30, 2):
            world = World(Fuse(first))
            try:
                update(world, NEW)
            except PowerCutError:
                world.reboot()
                world.fuse.left = second
                with suppress(PowerCutError):
                    world.run()
            settle(world)
            world.assert_whole(OLD, NEW)


@pytest.mark.parametrize("boots", range(1, 6))
def test_a_stick_left_in_that_never_boots_is_tried_once(boots: int) -> None:
    world = World(bad_commits={NEW.commit})
    stick: MemoryMedium = world.stick(NEW)
    codes = [int(automatic(world, stick).exit)]
    for _ in range(boots):
        world.reboot()
        codes.append(int(world.run().exit))
        codes.append(int(automatic(world, stick).exit))

    assert codes[:3] == [100, 99, 6]
    assert set(codes[3:]) <= {40, 6}


def automatic(world: World, stick: MemoryMedium) -> Outcome:
    """Do what the service does with a stick."""

    def walk() -> Outcome:
        decision = check(world.station, stick, automatic=True)
        if isinstance(decision, Refusal):
            return decision.outcome()
        return install(world.station, stick, decision)

    return attempt("install", InstallExit, walk)
