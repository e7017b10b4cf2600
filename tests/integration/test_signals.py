"""Every way of telling, with real files, sockets and terminals."""

import json
import os
import pty
import select
import socket
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.adapters.signals import (
    Beeper,
    Bell,
    Console,
    Followers,
    Leds,
    ServiceManager,
    SignalBus,
    StatusFile,
    follow,
    is_heard,
    read_status,
)
from agent.adapters.signals.followers import FOLLOWERS_LIMIT
from agent.adapters.signals.sound import INPUT_EVENT, PITCH_HZ
from agent.core.feedback import Progress, Signal, Stage, signal_from_outcome, signal_from_stage
from agent.core.outcome import InstallExit, Outcome
from tests.factory.records import NOON

LOOKING = signal_from_stage(Stage.LOOKING)
WORKING = signal_from_stage(Stage.STAGING)
IDLE = signal_from_stage(Stage.IDLE)
DONE = signal_from_outcome(Outcome(InstallExit.UP_TO_DATE), released=True)
REFUSED = signal_from_outcome(Outcome(InstallExit.BUNDLE_INVALID), released=True)
FAILED = signal_from_outcome(Outcome(InstallExit.FAILED), released=True)


@dataclass
class Sink:
    """Keeps what it was shown, or fails."""

    broken: bool = False
    seen: list[Signal] = field(default_factory=list)

    def show(self, signal: Signal) -> None:
        if self.broken:
            raise OSError("no lamp")
        self.seen.append(signal)


# --- the bus ---------------------------------------------------------------------------


def test_a_broken_sink_is_logged_once_and_the_others_go_on():
    broken, good = Sink(broken=True), Sink()
    bus = SignalBus([broken, good])
    with capture_logs() as logs:
        for signal in (LOOKING, WORKING, DONE):
            bus.show(signal)

    assert good.seen == [LOOKING, WORKING, DONE]
    assert [entry["event"] for entry in logs] == ["signal.unavailable"]


def test_a_sink_that_came_back_is_logged_again_when_it_breaks():
    sink = Sink(broken=True)
    bus = SignalBus([sink])
    with capture_logs() as logs:
        for broken, signal in ((True, LOOKING), (False, WORKING), (True, DONE)):
            sink.broken = broken
            bus.show(signal)

    assert len(logs) == 2


def test_progress_is_told_twice_a_second_and_at_its_end():
    sink, clock = Sink(), iter(n / 10 for n in range(100))
    bus = SignalBus([sink], monotonic=lambda: next(clock))
    for done in range(1, 12):
        bus.show(signal_from_stage(Stage.COPYING, progress=Progress("ostree", done, 11)))

    assert [s.progress.done for s in sink.seen if s.progress] == [1, 6, 11]


def test_a_new_step_is_told_at_once():
    sink = Sink()
    bus = SignalBus([sink], monotonic=lambda: 0.0)
    for step in ("ostree", "app one"):
        bus.show(signal_from_stage(Stage.COPYING, progress=Progress(step, 1, 9)))

    assert len(sink.seen) == 2


def test_the_same_signal_is_told_once():
    sink = Sink()
    bus = SignalBus([sink])
    bus.show(LOOKING)
    bus.show(LOOKING)

    assert sink.seen == [LOOKING]


# --- status.json -----------------------------------------------------------------------


def test_the_status_file_says_the_signal_to_everyone(tmp_path):
    path = tmp_path / "run" / "status.json"
    StatusFile(path, now=lambda: NOON).show(DONE)
    said = read_status(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert said is not None
    assert (said["schema"], said["stage"], said["remove_stick"]) == (1, "finished", True)
    assert said["updated_utc"] == "2026-01-02T12:00:00Z"


def test_no_status_yet_is_none(tmp_path):
    assert read_status(tmp_path / "status.json") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', "x" * 100_000])
def test_a_status_that_is_none_of_ours_is_refused(tmp_path, text):
    (tmp_path / "status.json").write_text(text)

    with pytest.raises(ValueError, match=r".+"):
        read_status(tmp_path / "status.json")


# --- lamps -----------------------------------------------------------------------------


def lamp(
    root: Path, name: str = "status", triggers: str = "[heartbeat] none timer pattern"
) -> Path:
    """Make what the kernel shows of an LED; real files, so what was written can be read."""
    directory = root / name
    directory.mkdir()
    (directory / "trigger").write_text(triggers)
    (directory / "max_brightness").write_text("255\n")
    return directory


def test_a_lamp_with_the_pattern_trigger_plays_the_rhythm(tmp_path):
    directory = lamp(tmp_path)
    Leds(["status"], tmp_path).show(DONE)

    assert (directory / "trigger").read_text() == "pattern"
    assert (directory / "pattern").read_text() == (
        "255 150 255 0 0 150 0 0 255 150 255 0 0 1200 0 0"
    )


def test_a_lamp_without_it_blinks_at_the_moods_speed(tmp_path):
    directory = lamp(tmp_path, triggers="none [timer]")
    Leds(["status"], tmp_path).show(FAILED)

    assert (directory / "trigger").read_text() == "timer"
    assert (directory / "delay_on").read_text() == "100"
    assert (directory / "delay_off").read_text() == "100"


@pytest.mark.parametrize(("signal", "brightness"), [(WORKING, "255"), (IDLE, "0")])
def test_a_steady_lamp_and_a_dark_one_need_no_trigger(tmp_path, signal, brightness):
    directory = lamp(tmp_path)
    Leds(["status"], tmp_path).show(signal)

    assert (directory / "trigger").read_text() == "none"
    assert (directory / "brightness").read_text() == brightness


def test_a_lamp_gets_its_trigger_back(tmp_path):
    directory = lamp(tmp_path)
    leds = Leds(["status"], tmp_path)
    leds.show(DONE)
    leds.show(FAILED)
    leds.restore()

    assert (directory / "trigger").read_text() == "heartbeat"


def test_a_missing_lamp_does_not_darken_the_other(tmp_path):
    directory = lamp(tmp_path)
    with pytest.raises(OSError, match="missing"):
        Leds(["missing", "status"], tmp_path).show(DONE)

    assert (directory / "trigger").read_text() == "pattern"


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../etc", ".hidden"])
def test_a_lamps_name_is_a_name(tmp_path, name):
    with pytest.raises(ValueError, match="LED name"):
        Leds([name], tmp_path)


def test_kernel_led_names_are_names(tmp_path):
    Leds(["beaglebone:green:usr0", "mmc0::", "ACT"], tmp_path)


# --- sounds and console ----------------------------------------------------------------


@pytest.mark.parametrize(("signal", "tones"), [(DONE, 2), (REFUSED, 3), (FAILED, 1), (LOOKING, 0)])
def test_a_speaker_gets_as_many_tones_as_the_mood_is_worth(tmp_path, signal, tones):
    speaker = tmp_path / "speaker"
    speaker.touch()
    Beeper(speaker, sleep=lambda _: None).show(signal)
    events = list(INPUT_EVENT.iter_unpack(speaker.read_bytes()))

    assert [event[4] for event in events] == [PITCH_HZ, 0] * tones


def test_a_terminal_rings_and_shows_a_line_per_stage():
    master, slave = pty.openpty()
    tty = Path(os.ttyname(slave))
    Bell(tty, sleep=lambda _: None).show(DONE)
    console = Console(tty)
    for signal in (LOOKING, LOOKING, DONE):
        console.show(signal)
    text = read_until_quiet(master)
    os.close(slave)
    os.close(master)

    assert text.count("\a") == 2
    assert text.count("usb-update: ") == 2
    assert "Looking at the stick." in text
    assert "The stick may be removed." in text


def test_a_terminal_that_says_wait_does_not_stop_the_agent():
    """XOFF on a serial console, or a reader that went to sleep."""
    master, slave = pty.openpty()
    tty = Path(os.ttyname(slave))
    os.set_blocking(slave, False)
    fill(slave)
    started = time.monotonic()
    with pytest.raises(BlockingIOError):
        Console(tty).show(DONE)
    os.close(slave)
    os.close(master)

    assert time.monotonic() - started < 1


def fill(fd: int) -> None:
    """Write until nothing more goes in, also after the kernel has passed on what it had."""
    refused = 0
    while refused < 20:
        try:
            os.write(fd, b"x" * 4096)
            refused = 0
        except BlockingIOError:
            refused += 1
            time.sleep(0.01)


def read_until_quiet(fd: int) -> str:
    """Read what a terminal shows; the kernel passes it on in pieces."""
    text = b""
    while select.select([fd], [], [], 0.2)[0]:
        text += os.read(fd, 4096)
    return text.decode()


# --- the service manager ---------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears_ready_alive_and_the_sentence(tmp_path, abstract):
    name = f"@usb-update-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name[1:]}" if abstract else name)
        service = ServiceManager(name)
        service.ready()
        service.alive()
        service.show(LOOKING)
        service.stopping()
        heard = [manager.recv(4096) for _ in range(4)]

    assert heard == [
        b"READY=1",
        b"WATCHDOG=1",
        b"STATUS=Looking at the stick.",
        b"STOPPING=1",
    ]


def test_without_a_service_manager_nothing_is_said():
    ServiceManager().ready()
    ServiceManager().show(LOOKING)


def test_a_service_manager_that_left_does_not_stop_the_agent(tmp_path):
    with capture_logs() as logs:
        ServiceManager(str(tmp_path / "gone")).alive()

    assert [entry["event"] for entry in logs] == ["signal.unavailable"]


def test_the_watchdog_is_calmed_twice_as_often_as_asked(monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert ServiceManager.from_environment().watchdog_s == 15.0

    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert ServiceManager.from_environment().watchdog_s == 0.0


# --- followers -------------------------------------------------------------------------


@pytest.fixture
def followers(tmp_path):
    made = Followers(tmp_path / "events.sock", now=lambda: NOON)
    yield made
    made.close()


def connect(followers: Followers, path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(5)
    client.connect(str(path))
    poll = select.poll()
    poll.register(followers, select.POLLIN)
    assert poll.poll(5000)
    followers.accept()
    return client


def line(client: socket.socket) -> dict[str, object]:
    data = b""
    while not data.endswith(b"\n"):
        data += client.recv(65536)
    return json.loads(data)


def test_a_follower_gets_the_present_and_then_the_news(followers, tmp_path):
    followers.show(LOOKING)
    with connect(followers, tmp_path / "events.sock") as client:
        assert line(client)["stage"] == "looking"
        followers.show(DONE)
        assert line(client)["stage"] == "finished"


def test_any_user_may_follow(followers, tmp_path):
    assert stat.S_IMODE((tmp_path / "events.sock").stat().st_mode) == 0o666


def test_a_follower_that_does_not_read_is_dropped_and_the_others_stay(followers, tmp_path):
    with (
        connect(followers, tmp_path / "events.sock"),
        connect(followers, tmp_path / "events.sock") as awake,
    ):
        started = time.monotonic()
        for n in range(2000):
            followers.publish({"n": n, "pad": "x" * 4000})
            assert line(awake)["n"] == n

        assert followers.count == 1
        assert time.monotonic() - started < 20


def test_a_follower_that_hung_up_is_dropped(followers, tmp_path):
    connect(followers, tmp_path / "events.sock").close()
    followers.publish({"n": 1})

    assert followers.count == 0


def test_the_dead_make_room_though_nothing_was_said(followers, tmp_path):
    for _ in range(FOLLOWERS_LIMIT):
        connect(followers, tmp_path / "events.sock").close()
    with connect(followers, tmp_path / "events.sock"):
        assert followers.count == 1


def test_the_seventeenth_is_hung_up_on(followers, tmp_path):
    clients = [connect(followers, tmp_path / "events.sock") for _ in range(FOLLOWERS_LIMIT)]
    with connect(followers, tmp_path / "events.sock") as late:
        assert late.recv(1) == b""
    assert followers.count == FOLLOWERS_LIMIT
    for client in clients:
        client.close()


def test_what_a_follower_says_changes_nothing(followers, tmp_path):
    with connect(followers, tmp_path / "events.sock") as client:
        client.sendall(b'{"confirm": true}\n' * 100)
        followers.show(LOOKING)
        assert line(client)["stage"] == "looking"


def test_nobody_waiting_is_no_error(followers):
    followers.accept()

    assert followers.count == 0


def test_a_stale_socket_is_replaced_and_another_file_is_not(tmp_path):
    path = tmp_path / "events.sock"
    old = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old.bind(str(path))
    old.close()
    Followers(path).close()
    assert not path.exists()

    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        Followers(path)
    assert path.read_text() == "mine"


def test_following_ends_with_the_agent(followers, tmp_path):
    followers.show(LOOKING)
    lines = follow(tmp_path / "events.sock")
    reader = os.fork()
    if reader == 0:
        os._exit(0 if [said["stage"] for said in lines] == ["looking", "finished"] else 1)
    poll = select.poll()
    poll.register(followers, select.POLLIN)
    poll.poll(5000)
    followers.accept()
    followers.show(DONE)
    followers.close()

    assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0


def test_whether_an_agent_listens_can_be_asked(followers, tmp_path):
    assert is_heard(tmp_path / "events.sock")
    followers.close()
    assert not is_heard(tmp_path / "events.sock")
