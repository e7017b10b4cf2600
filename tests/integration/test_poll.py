"""The daemon's sleep, with real descriptors, signals, mounts and sticks."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.adapters.poll import PollWakeups
from tests import loop_sticks as sticks
from tests import udevd


@dataclass
class Pipe:
    reader: int
    writer: int

    def fileno(self) -> int:
        return self.reader


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    yield Pipe(reader, writer)
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


@pytest.fixture
def poll() -> Iterator[PollWakeups]:
    wakeups = PollWakeups()
    yield wakeups
    wakeups.close()


def test_a_listener_is_called_when_there_is_something_to_read(poll, pipe: Pipe) -> None:
    heard: list[bytes] = []
    poll.listen(pipe, lambda: heard.append(os.read(pipe.reader, 10)))
    os.write(pipe.writer, b"news")

    poll.wait(5)

    assert heard == [b"news"]


def test_a_source_that_closes_does_not_keep_the_daemon_awake(poll, pipe: Pipe) -> None:
    poll.listen(pipe, lambda: None)
    os.close(pipe.writer)
    poll.wait(0)

    began = time.monotonic()
    poll.wait(0.05)

    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_longest_sleep(poll, number: signal.Signals) -> None:
    with poll.signals_heard():
        timer = threading.Timer(0.05, os.kill, [os.getpid(), number])
        timer.start()
        poll.wait(None)
        timer.join()

    assert poll.stopping()


def test_a_signal_between_two_sleeps_is_not_missed(poll) -> None:
    with poll.signals_heard():
        os.kill(os.getpid(), signal.SIGTERM)
        poll.wait(60)

    assert poll.stopping()


def test_signals_are_as_before_afterwards(poll) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with poll.signals_heard():
        pass

    assert signal.getsignal(signal.SIGTERM) is before


def test_a_watchdog_stays_calm_during_a_long_sleep() -> None:
    """A person who is asked for a yes may take an hour."""
    said: list[float] = []
    wakeups = PollWakeups(lambda: said.append(time.monotonic()), alive_s=0.02)

    wakeups.wait(0.1)
    wakeups.close()

    assert 3 <= len(said) <= 7


@pytest.mark.needs_root
class TestMounts:
    def mount_soon(self, place: Path) -> threading.Thread:
        argv = ["mount", "-t", "tmpfs", "tmpfs", str(place)]
        mounting = threading.Timer(0.1, subprocess.run, [argv])
        mounting.start()
        return mounting

    def test_a_new_mount_wakes_who_waits_for_one(self, poll, tmp_path: Path) -> None:
        mounting = self.mount_soon(tmp_path)
        began = time.monotonic()
        poll.wait(20, mounts=True)
        took = time.monotonic() - began
        mounting.join()
        subprocess.run(["umount", str(tmp_path)], check=True)

        assert took < 10

    def test_mounts_are_nothing_to_an_idle_daemon(self, poll, tmp_path: Path) -> None:
        """Containers mount all day; a device that sleeps should not care."""
        mounting = self.mount_soon(tmp_path)
        began = time.monotonic()
        poll.wait(0.5)
        took = time.monotonic() - began
        mounting.join()
        subprocess.run(["umount", str(tmp_path)], check=True)

        assert took >= 0.5


# --- the loop as a process --------------------------------------------------------------

UUID = "0f0f0f0f-5d35-4c6f-9d6b-0123456789ab"
DAEMON = """
import sys, time
from pathlib import Path
from agent.adapters.mountinfo import StickMounts
from agent.adapters.poll import PollWakeups
from agent.adapters.systemd import SystemdServices
from agent.adapters.udev import UdevDevices, system_disks
from agent.services.watch import Watch

poll = PollWakeups()
with poll.signals_heard():
    devices = UdevDevices(system_disks())
    mounts = StickMounts(["ext4"], directory=Path(sys.argv[1]) / "run")

    def attend(event):
        if event.fs_uuid != sys.argv[2]:
            return  # a loop device of somebody else
        with mounts.mounted_ro(event) as path:
            print("attended", event.devnode, (path / "hello").read_text(), time.time(), flush=True)

    services = SystemdServices([], Path(sys.argv[1]))
    watch = Watch(poll, devices, mounts, services, attend, lambda: None)
    poll.listen(devices, watch.hear)
    watch.start()
    print("ready", flush=True)
    watch.run()
print("stopped", flush=True)
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    with udevd.running():
        argv = [sys.executable, "-c", DAEMON, str(tmp_path), UUID]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            assert process.poll() is None
        yield process
        process.kill()
        process.wait()
        process.stdout.close()


def lines(process: "subprocess.Popen[str]", word: str) -> list[str]:
    """Return the words of the next line that starts with ``word``."""
    assert process.stdout is not None
    while True:
        line = process.stdout.readline()
        assert line, "the daemon ended"
        if line.startswith(word):
            return line.split()


def switches(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)


def woken_within(pid: int, seconds: float) -> int:
    before = switches(pid)
    time.sleep(seconds)
    return switches(pid) - before


@pytest.mark.needs_udev
class TestDaemon:
    def test_a_stick_is_found_mounted_and_read_each_time_it_is_plugged_in(
        self, daemon, tmp_path: Path
    ) -> None:
        image = sticks.make_ext4(tmp_path / "stick.img", {"hello": b"world"}, uuid=UUID)
        for _ in range(2):
            with sticks.plugged(image) as stick:
                said = lines(daemon, "attended")
                udevd.settle()
            udevd.settle()
            assert said[1:3] == [stick.devnode, "world"]

    def test_an_idle_daemon_does_not_wake(self, daemon) -> None:
        """Devices of others may come and go on this machine; one quiet second is enough."""
        woken = [woken_within(daemon.pid, 1.0) for _ in range(8)]

        assert 0 in woken

    def test_asked_to_stop_it_stops(self, daemon) -> None:
        daemon.terminate()

        lines(daemon, "stopped")
        assert daemon.wait(10) == 0
