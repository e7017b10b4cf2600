"""What ``run`` does when there is nothing to do."""

import pytest

from agent.core.outcome import RunExit
from tests.fakes.world import World


class UnaskedSysroot:
    """A sysroot that fails whoever asks it anything."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"asked for {name}")


def idle(*, counts_boots: bool) -> World:
    world = World()
    world.bootenv.counts_boots = counts_boots
    world.bootenv.variables |= {"upgrade_available": "1", "bootcount": "2"}
    return world


def test_with_nothing_pending_and_no_boot_loader_the_sysroot_is_not_asked() -> None:
    world = idle(counts_boots=False)
    world.sysroot = UnaskedSysroot()  # type: ignore[assignment]

    assert RunExit.NOTHING_PENDING is world.run().exit
    assert "2" == world.bootenv.variables["bootcount"]


def test_with_nothing_pending_a_boot_loader_that_counts_is_told_all_the_same() -> None:
    world = idle(counts_boots=True)

    assert RunExit.NOTHING_PENDING is world.run().exit
    assert ("0", "0") == (
        world.bootenv.variables["upgrade_available"],
        world.bootenv.variables["bootcount"],
    )


@pytest.mark.parametrize("counts_boots", [True, False])
def test_a_second_run_finds_nothing(*, counts_boots: bool) -> None:
    world = idle(counts_boots=counts_boots)

    assert [RunExit.NOTHING_PENDING] * 2 == [world.run().exit, world.run().exit]
