"""The daemon's loop, with sticks, mounts and sleep in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest

from agent.core.feedback import Signal, Stage
from agent.core.outcome import InstallExit, Outcome
from agent.core.stick import Action, BlockEvent
from agent.services.consent import Asking, Consent, Ladder
from agent.services.night import RETRY_S, Night, RebootPolicy
from agent.services.watch import StickQueue, Watch
from tests.fakes.devices import MemoryDevices, MemoryWakeups, stick
from tests.fakes.mounts import MemoryMounts
from tests.fakes.power import MemoryConfirmations, MemoryPower, MemoryServices


@dataclass
class Port:
    """A daemon and everything around it."""

    devices: MemoryDevices = field(default_factory=MemoryDevices)
    wakeups: MemoryWakeups = field(default_factory=MemoryWakeups)
    mounts: MemoryMounts = field(default_factory=MemoryMounts)
    services: MemoryServices = field(default_factory=MemoryServices)
    attended: list[str] = field(default_factory=list)
    during: Callable[[BlockEvent], None] = lambda _: None
    idle: Callable[[], float | None] = lambda: None
    left: Callable[[], None] = lambda: None
    holds_back: Callable[[], bool] = lambda: False

    def daemon(self) -> Watch:
        daemon = Watch(
            self.wakeups,
            self.devices,
            self.mounts,
            self.services,
            attend=self.attend,
            on_idle=self.idle,
            on_left=self.left,
            holds_back=self.holds_back,
            monotonic=self.wakeups.monotonic,
        )
        self.wakeups.listeners.append(daemon.hear)
        return daemon

    def attend(self, event: BlockEvent) -> None:
        self.attended.append(event.devnode)
        self.during(event)

    def live(self, *script: Callable[[], None]) -> list[str]:
        """Run a daemon through what happens during each of its sleeps."""
        self.wakeups.script = list(script)
        daemon = self.daemon()
        daemon.start()
        daemon.run()
        return self.attended


def test_a_stick_is_attended_to_once_however_often_udev_tells_of_it() -> None:
    port = Port()
    again = replace(stick(), action=Action.CHANGE)

    attended = port.live(
        lambda: port.devices.plug(stick()), lambda: port.devices.news.extend([again, again])
    )

    assert ["/dev/sda1"] == attended


def test_a_stick_present_at_start_is_found() -> None:
    port = Port()
    port.devices.plugged = {"/dev/sda1": stick()}

    assert ["/dev/sda1"] == port.live()


def test_a_stick_left_in_its_port_is_attended_to_once() -> None:
    """Attack: a stick that keeps the device busy, or rebooting, for ever."""
    port = Port()
    port.devices.plug(stick())
    change = replace(stick(), action=Action.CHANGE)

    attended = port.live(*[lambda: port.devices.news.append(change)] * 5)

    assert ["/dev/sda1"] == attended


def test_a_stick_plugged_in_again_is_attended_to_again() -> None:
    port = Port()

    attended = port.live(
        lambda: port.devices.plug(stick()),
        lambda: port.devices.pull(stick()),
        lambda: port.devices.plug(stick()),
    )

    assert ["/dev/sda1", "/dev/sda1"] == attended


def test_another_medium_in_the_same_reader_is_attended_to() -> None:
    port = Port()

    attended = port.live(
        lambda: port.devices.plug(stick(fs_uuid="AAAA-0001")),
        lambda: port.devices.plug(stick(fs_uuid="BBBB-0002")),
    )

    assert ["/dev/sda1", "/dev/sda1"] == attended


def test_twenty_sticks_at_once_come_in_order_and_none_is_lost() -> None:
    port = Port()
    names = [f"sd{letter}1" for letter in "abcdefghijklmnopqrst"]

    attended = port.live(lambda: [port.devices.plug(stick(name)) for name in names] and None)

    assert [f"/dev/{name}" for name in names] == attended


def test_sticks_that_come_during_an_attempt_wait_for_its_end() -> None:
    port = Port()
    running: list[str] = []
    overlaps: list[str] = []

    def during(event: BlockEvent) -> None:
        overlaps.extend(running)
        running.append(event.devnode)
        if event.devnode == "/dev/sda1":
            port.devices.plug(stick("sdb1"))
        running.remove(event.devnode)

    port.during = during

    attended = port.live(lambda: port.devices.plug(stick()), lambda: None)

    assert ["/dev/sda1", "/dev/sdb1"] == attended
    assert not overlaps


def test_a_stick_that_leaves_before_its_turn_is_dropped() -> None:
    port = Port()
    port.devices.plugged = {"/dev/sda1": stick("sda1"), "/dev/sdb1": stick("sdb1")}
    port.during = lambda _: port.devices.pull(stick("sdb1"))

    assert ["/dev/sda1"] == port.live()


def test_two_partitions_of_one_stick_are_two_media() -> None:
    port = Port()

    attended = port.live(
        lambda: port.devices.plug(stick("sda1", fs_uuid="A")),
        lambda: port.devices.plug(stick("sda2", fs_uuid="B")),
    )

    assert ["/dev/sda1", "/dev/sda2"] == attended


@pytest.mark.parametrize("kind", ["", "ntfs", "squashfs"])
def test_a_stick_that_cannot_be_mounted_is_attended_to_all_the_same(kind: str) -> None:
    """Somebody plugged it in and deserves an answer; the attempt gives it."""
    port = Port(mounts=MemoryMounts(automounted=set()))

    assert ["/dev/sda1"] == port.live(lambda: port.devices.plug(stick(fs_type=kind)))


def test_a_medium_told_of_before_its_content_could_be_read_is_judged_by_its_content() -> None:
    port = Port()
    kinds: list[str] = []
    port.during = lambda event: kinds.append(event.fs_type)

    port.live(
        lambda: port.devices.plug(stick(fs_type="", fs_uuid="")),
        lambda: port.devices.plug(stick()),
    )

    assert ["vfat"] == kinds


def test_a_look_that_found_nothing_while_the_result_was_written_is_no_new_stick() -> None:
    port = Port()
    blank = replace(stick(), action=Action.CHANGE, fs_type="", fs_uuid="")
    again = replace(stick(), action=Action.CHANGE)

    attended = port.live(
        lambda: port.devices.plug(stick()),
        lambda: port.devices.news.append(blank),
        lambda: port.devices.news.append(again),
    )

    assert ["/dev/sda1"] == attended


def test_a_medium_without_content_is_answered_after_a_moment() -> None:
    port = Port()

    assert ["/dev/sda1"] == port.live(lambda: port.devices.plug(stick(fs_type="")))
    assert sum(slept for slept in port.wakeups.slept if slept) == pytest.approx(3.0)


def test_an_idle_daemon_sleeps_without_an_end() -> None:
    port = Port()

    port.live(lambda: None, lambda: None)

    assert [None, None, None] == port.wakeups.slept


def test_what_else_waits_decides_how_long_the_daemon_sleeps() -> None:
    port = Port(idle=lambda: 42.0)

    port.live(lambda: None, port.wakeups.stop)

    assert [42.0, 42.0] == port.wakeups.slept


def test_what_a_stick_was_told_stands_until_it_has_left() -> None:
    port = Port()
    left_at: list[int] = []
    port.left = lambda: left_at.append(len(port.wakeups.slept))

    port.live(lambda: port.devices.plug(stick()), lambda: None, lambda: port.devices.pull(stick()))

    assert [3] == left_at


def test_a_stick_that_makes_room_for_the_next_is_not_waited_for() -> None:
    port = Port()
    left: list[str] = []
    port.left = lambda: left.append("left")
    port.devices.plugged = {"/dev/sda1": stick("sda1"), "/dev/sdb1": stick("sdb1")}
    port.during = lambda event: (
        port.devices.pull(stick("sda1")) if "sda1" in event.devnode else None
    )

    assert ["/dev/sda1", "/dev/sdb1"] == port.live()
    assert [] == left


def test_an_automounter_is_given_its_time() -> None:
    port = Port(mounts=MemoryMounts(automounted=set()))
    asked_at: list[float] = []
    port.during = lambda _: asked_at.append(port.wakeups.clock)
    port.devices.plugged = {"/dev/sda1": stick()}

    def mount() -> None:
        assert port.mounts.automounted is not None
        port.mounts.automounted.add("/dev/sda1")

    port.live(lambda: None, lambda: None, mount)

    assert [3.0] == asked_at


def test_an_automounter_that_never_mounts_does_not_hold_the_daemon() -> None:
    port = Port(mounts=MemoryMounts(automounted=set()))
    port.devices.plugged = {"/dev/sda1": stick()}

    assert ["/dev/sda1"] == port.live()
    assert sum(slept for slept in port.wakeups.slept if slept) == pytest.approx(10.0)


def test_a_stick_pulled_while_its_mount_is_awaited_is_dropped() -> None:
    port = Port(mounts=MemoryMounts(automounted=set()))
    port.devices.plugged = {"/dev/sda1": stick()}

    assert [] == port.live(lambda: port.devices.pull(stick()))


def test_what_a_crash_left_behind_is_cleared_up_at_start() -> None:
    port = Port()
    port.services.noted = {"aktualizr-lite.service"}
    port.mounts.mounted = [("/dev/sda1", "ro")]

    port.live()

    assert {"aktualizr-lite.service"} == port.services.running
    assert [] == port.mounts.mounted


def test_a_daemon_that_is_stopped_attends_to_nobody_else() -> None:
    port = Port()
    port.devices.plugged = {"/dev/sda1": stick("sda1"), "/dev/sdb1": stick("sdb1")}
    port.during = lambda _: port.wakeups.stop()

    assert ["/dev/sda1"] == port.live()


def test_the_queue_knows_whether_this_very_stick_is_still_there() -> None:
    queue = StickQueue()
    queue.feed((stick(fs_uuid="A"),))
    taken = queue.take()
    assert taken is not None

    before = queue.holds(taken)
    queue.feed((stick(fs_uuid="B"),))

    assert (True, False) == (before, queue.holds(taken))


# --- consent ----------------------------------------------------------------------------


@dataclass
class Person:
    """Somebody in front of a device that asks."""

    ladder: Ladder
    wakeups: MemoryWakeups = field(default_factory=MemoryWakeups)
    button: MemoryConfirmations = field(default_factory=MemoryConfirmations)
    shown: list[Signal] = field(default_factory=list)
    there: bool = True

    def show(self, signal: Signal) -> None:
        self.shown.append(signal)

    def pull(self) -> None:
        self.there = False

    def asked(self, *script: Callable[[], None], by_bundle: bool = False) -> Consent:
        self.wakeups.script = list(script)
        asking = Asking(
            self.ladder,
            3,
            self.wakeups,
            [self.button],
            self,
            holds=lambda _: self.there,
            monotonic=self.wakeups.monotonic,
        )
        return asking.ask(stick(), detail="lmp-42", confirmed_by_bundle=by_bundle)


def test_auto_asks_nobody() -> None:
    person = Person(Ladder.AUTO)

    assert Consent.GIVEN is person.asked()
    assert [] == person.shown


def test_a_countdown_counts_every_second_and_then_goes_on() -> None:
    person = Person(Ladder.COUNTDOWN)

    assert Consent.GIVEN is person.asked()
    assert [3, 2, 1] == [signal.seconds_left for signal in person.shown]


def test_pulling_the_stick_cancels_a_countdown() -> None:
    person = Person(Ladder.COUNTDOWN)

    assert Consent.STICK_PULLED is person.asked(lambda: None, person.pull)


def test_pulling_the_stick_in_the_last_moment_cancels_as_well() -> None:
    person = Person(Ladder.COUNTDOWN)

    assert Consent.STICK_PULLED is person.asked(lambda: None, lambda: None, person.pull)


def test_a_yes_is_waited_for_without_ticking() -> None:
    person = Person(Ladder.CONFIRM)

    assert Consent.GIVEN is person.asked(lambda: None, person.button.say_yes)
    assert [None, None] == person.wakeups.slept
    assert [Stage.WAITING_FOR_CONFIRMATION] == [signal.stage for signal in person.shown]


def test_a_yes_from_before_the_question_does_not_count() -> None:
    person = Person(Ladder.CONFIRM)
    person.button.yes = True

    assert Consent.STICK_PULLED is person.asked(person.pull)


def test_a_daemon_that_is_stopped_takes_no_silence_for_a_yes() -> None:
    person = Person(Ladder.CONFIRM)

    assert Consent.STOPPED is person.asked(person.wakeups.stop)
    assert not person.button.asked


def test_a_signed_bundle_may_stand_for_the_yes_where_the_configuration_says_so() -> None:
    assert Consent.GIVEN is Person(Ladder.CONFIRM).asked(by_bundle=True)


def test_a_bundle_does_not_shorten_a_countdown() -> None:
    person = Person(Ladder.COUNTDOWN)

    assert Consent.STICK_PULLED is person.asked(person.pull, by_bundle=True)


# --- the device restarts between two sticks ----------------------------------------------


class Nobody:
    def show(self, signal: Signal) -> None:
        pass


def restless(port: Port, power: MemoryPower, policy: RebootPolicy = RebootPolicy.NOW) -> Night:
    """Let the first stick bring an update that needs a reboot."""
    night = Night(policy, (), datetime.now, power, Nobody(), monotonic=port.wakeups.monotonic)
    port.idle = night.on_idle
    port.holds_back = lambda: night.holds_back
    port.during = lambda event: (
        night.hear(Outcome(InstallExit.NEEDS_REBOOT)) if event.devnode == "/dev/sda1" else None
    )
    return night


def two_sticks(port: Port) -> None:
    port.devices.plug(stick("sda1"))
    port.devices.plug(stick("sdb1"))


def test_who_waits_while_the_device_restarts_is_left_for_the_next_life() -> None:
    port, power = Port(), MemoryPower()
    restless(port, power)

    attended = port.live(lambda: two_sticks(port), port.wakeups.stop)

    assert attended == ["/dev/sda1"]
    assert power.reboots == 1


def test_a_stick_that_comes_while_the_device_goes_down_is_left_alone() -> None:
    port = Port()

    class LatePower(MemoryPower):
        def reboot(self) -> None:
            super().reboot()
            port.devices.plug(stick("sdb1"))

    restless(port, LatePower())

    attended = port.live(lambda: port.devices.plug(stick("sda1")), port.wakeups.stop)

    assert attended == ["/dev/sda1"]


def test_a_restart_that_does_not_come_does_not_keep_sticks_waiting() -> None:
    port, power = Port(), MemoryPower()
    restless(port, power)

    attended = port.live(lambda: two_sticks(port))

    assert attended == ["/dev/sda1", "/dev/sdb1"]
    assert port.wakeups.slept == [None, RETRY_S, None]
    assert power.reboots == 1


def test_a_program_that_keeps_the_device_up_does_not_keep_sticks_waiting() -> None:
    port, power = Port(), MemoryPower(inhibited=1)
    restless(port, power)

    attended = port.live(lambda: two_sticks(port), lambda: None, port.wakeups.stop)

    assert attended == ["/dev/sda1", "/dev/sdb1"]
    assert power.reboots == 1, "and the device restarts when nobody objects any more"


@pytest.mark.parametrize("policy", [RebootPolicy.WINDOW, RebootPolicy.NEVER])
def test_a_restart_that_is_not_due_now_keeps_nobody_waiting(policy: RebootPolicy) -> None:
    port, power = Port(), MemoryPower()
    restless(port, power, policy)

    assert port.live(lambda: two_sticks(port)) == ["/dev/sda1", "/dev/sdb1"]
    assert power.reboots == 0
