"""The follow socket: every signal as a JSON line to any program that connects.

No threads and no waiting: the daemon's poll loop watches `Followers.fileno` for reading and
calls `Followers.accept`. Followers only read. One that does not keep up is dropped, since a
line that is half sent is worth nothing and the agent waits for nobody.
"""

import json
import select
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.adapters.signals.statusfile import message_from_signal
from agent.core.feedback import Signal

FOLLOWERS_LIMIT = 16
BACKLOG = 8
SOCKET_MODE = 0o666  # connecting takes write permission; status.json says the same to anyone
LINE_LIMIT_BYTES = 64 * 1024
GONE = select.POLLHUP | select.POLLERR | select.POLLRDHUP


def _system_now() -> datetime:
    return datetime.now(UTC)


class Followers:
    """Whoever follows.

    Args:
        path: of the socket, usually ``/run/usb-update/events.sock``; a socket that an
            earlier process left there is replaced.
        now: the time, UTC.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = _system_now) -> None:
        self._path = path
        self._now = now
        self._followers: list[socket.socket] = []
        self._last = b""
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_socket(path)
        self._listener = _listening(path)

    def fileno(self) -> int:
        """Return the descriptor to watch for POLLIN."""
        return self._listener.fileno()

    @property
    def count(self) -> int:
        """How many follow."""
        return len(self._followers)

    def accept(self) -> None:
        """Let everyone in who waits, and tell them where the agent stands now."""
        with suppress(BlockingIOError):
            while True:
                follower, _ = self._listener.accept()
                follower.settimeout(0)
                self._admit(follower)

    def publish(self, message: Mapping[str, object]) -> None:
        """Send one message to everyone; who cannot take it whole is dropped."""
        self._last = json.dumps(message, ensure_ascii=False).encode() + b"\n"
        for follower in tuple(self._followers):
            self._send(follower)

    def show(self, signal: Signal) -> None:
        """See `bus.Sink`."""
        self.publish(message_from_signal(signal, self._now()))

    def close(self) -> None:
        """Send everyone away and remove the socket."""
        for follower in tuple(self._followers):
            self._drop(follower)
        self._listener.close()
        _remove_socket(self._path)

    def _admit(self, follower: socket.socket) -> None:
        if len(self._followers) >= FOLLOWERS_LIMIT:
            self._sweep()
        if len(self._followers) >= FOLLOWERS_LIMIT:
            follower.close()
            return
        self._followers.append(follower)
        if self._last:
            self._send(follower)

    def _sweep(self) -> None:
        """Drop those that hung up; nothing else would notice while nothing is sent."""
        poll = select.poll()
        for follower in self._followers:
            poll.register(follower, select.POLLRDHUP)
        gone = {fd for fd, event in poll.poll(0) if event & GONE}
        for follower in [each for each in self._followers if each.fileno() in gone]:
            self._drop(follower)

    def _send(self, follower: socket.socket) -> None:
        try:
            sent = follower.send(self._last, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            sent = -1
        if sent != len(self._last):
            self._drop(follower)

    def _drop(self, follower: socket.socket) -> None:
        self._followers.remove(follower)
        follower.close()


def _listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.settimeout(0)
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_socket(path: Path) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


def follow(path: Path) -> Iterator[dict[str, Any]]:
    """Yield each message of a running agent, the present one first, until it ends.

    Raises:
        OSError: no agent listens there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as agent:
        agent.connect(str(path))
        with agent.makefile("rb") as lines:
            while line := lines.readline(LINE_LIMIT_BYTES):
                yield json.loads(line)


def is_heard(path: Path) -> bool:
    """Whether a running agent listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as agent:
        agent.settimeout(1.0)
        return agent.connect_ex(str(path)) == 0
