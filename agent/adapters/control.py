"""The control socket: how ``usb-update confirm`` reaches the daemon.

A person's yes is one datagram on a socket only root can open; the answer tells whether
somebody was waiting for it. Nothing is left lying about: a yes that nobody asked for is
answered and forgotten.
"""

import socket
from contextlib import suppress
from pathlib import Path

from agent.core.errors import StateError
from agent.log import get_logger

log = get_logger()

CONTROL_SOCKET = Path("/run/usb-update/control.sock")
CONFIRM, TAKEN, NOBODY_ASKED = b"confirm", b"taken", b"nobody-asked"
MESSAGE_LIMIT_BYTES = 64
PATIENCE_S = 1.0  # the other end has connected in order to speak
ANSWER_WAIT_S = 5.0  # the daemon may be unmounting a slow stick
BACKLOG = 4


class ControlSocket:
    """`Confirmations` by command; the poll watches `fileno` and calls `answer`.

    Args:
        path: replaced when an earlier process left it.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path = CONTROL_SOCKET) -> None:
        self._asked = self._given = False
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._listener.settimeout(0)
        # Nobody can connect before listen(), so the mode is in place in time.
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(BACKLOG)

    def fileno(self) -> int:
        """Return the descriptor to watch for POLLIN."""
        return self._listener.fileno()

    def answer(self) -> None:
        """Hear everybody who has connected; waits at most `PATIENCE_S` for each."""
        with suppress(BlockingIOError):
            while True:
                self._converse(self._listener.accept()[0])

    def _converse(self, person: socket.socket) -> None:
        with person:
            person.settimeout(PATIENCE_S)
            try:
                heard = person.recv(MESSAGE_LIMIT_BYTES) == CONFIRM
                person.send(TAKEN if heard and self._asked else NOBODY_ASKED)
            except OSError as e:
                log.warning("control.unanswered", error=str(e))
                return
        self._given |= heard and self._asked

    def ask(self) -> None:
        """See `ports.Confirmations`."""
        self._asked, self._given = True, False

    def given(self) -> bool:
        """See `ports.Confirmations`."""
        return self._given

    def close(self) -> None:
        """See `ports.Confirmations`."""
        self._asked = False

    def end(self) -> None:
        """Close the socket; its file goes with ``/run``, or is replaced."""
        self._listener.close()


def confirm(path: Path = CONTROL_SOCKET) -> bool:
    """Say yes to the daemon; return whether it had asked.

    Raises:
        StateError: no daemon listens, or it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as daemon:
        daemon.settimeout(ANSWER_WAIT_S)
        try:
            daemon.connect(str(path))
            daemon.send(CONFIRM)
            return daemon.recv(MESSAGE_LIMIT_BYTES) == TAKEN
        except OSError as e:
            raise StateError(
                f"the agent does not answer at '{path}': {e.strerror or e}",
                hint="run as root, and see 'systemctl status usb-update.service'",
            ) from e
