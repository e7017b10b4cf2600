"""Two conversations with QEMU in lines of JSON: QMP with the machine, the guest agent inside.

Source: QEMU's "QMP protocol specification" and "QEMU Guest Agent protocol reference".
"""

import base64
import json
import socket
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from tests.e2e.machine import AwayError, Finished

ANSWER_S = 30.0
AGENT_ANSWER_S = 10.0  # a busy emulated guest; longer means that it is not there
SYNC_IDS = count(1)


class Conversation:
    """One JSON object per line over a Unix socket."""

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        """Connect; the other end may only just be starting.

        Raises:
            OSError: nobody listens.
        """
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")

    def say(self, command: str, prefix: bytes = b"", **arguments: object) -> None:
        """Send a command; ``_`` in an argument's name stands for ``-``."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        line = json.dumps({"execute": command, "arguments": named}).encode()
        self._socket.sendall(prefix + line + b"\n")

    def hear(self) -> dict[str, Any]:
        """Return the next object.

        Raises:
            OSError: nothing came in time, or the other end hung up.
        """
        line = self._lines.readline()
        if not line:
            raise ConnectionError("hung up")
        heard: dict[str, Any] = json.loads(line.rpartition(b"\xff")[2])
        return heard

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Monitor:
    """QMP: what happens to the machine from outside."""

    def __init__(self, path: Path) -> None:
        self._conversation = _connected(path)
        self._deleted: set[str] = set()
        self._conversation.hear()  # the greeting
        self.do("qmp_capabilities")

    def do(self, command: str, **arguments: object) -> Any:
        """Carry out a command and return its answer."""
        self._conversation.say(command, **arguments)
        while True:
            heard = self._hear()
            if "error" in heard:
                raise AssertionError(f"{command}: {heard['error']['desc']}")
            if "return" in heard:
                return heard["return"]

    def await_deleted(self, device: str) -> None:
        """Wait until the guest has let a device go."""
        while device not in self._deleted:
            self._hear()
        self._deleted.discard(device)

    def _hear(self) -> dict[str, Any]:
        heard = self._conversation.hear()
        if heard.get("event") == "DEVICE_DELETED" and "device" in heard["data"]:
            self._deleted.add(heard["data"]["device"])
        return heard

    def close(self) -> None:
        self._conversation.close()


def _connected(path: Path) -> Conversation:
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            return Conversation(path, timeout_s=ANSWER_S)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def run_in_guest(agent: Path, argv: tuple[str, ...], *, timeout_s: float) -> Finished:
    """Run a program through the guest agent; one connection per program.

    Raises:
        AwayError: there is no agent that answers.
    """
    conversation: Conversation | None = None
    try:
        conversation = Conversation(agent, timeout_s=AGENT_ANSWER_S)
        _synchronize(conversation)
        return _execute(conversation, argv, time.monotonic() + timeout_s)
    except (OSError, ValueError) as e:
        raise AwayError from e
    finally:
        if conversation:
            conversation.close()


def _synchronize(conversation: Conversation) -> None:
    """Skip what an earlier conversation left in the pipe."""
    number = next(SYNC_IDS)
    conversation.say("guest-sync-delimited", prefix=b"\xff", id=number)
    while True:
        with suppress(ValueError):
            if conversation.hear().get("return") == number:
                return


def _execute(conversation: Conversation, argv: tuple[str, ...], deadline: float) -> Finished:
    program, *words = argv
    path = "/usr/bin/env"  # the agent does not search PATH
    pid = _asked(conversation, "guest-exec", path=path, arg=[program, *words], capture_output=True)[
        "pid"
    ]
    pause = 0.05
    while True:
        status = _asked(conversation, "guest-exec-status", pid=pid)
        if status["exited"]:
            return _finished(status)
        if time.monotonic() > deadline:
            raise AwayError
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def _asked(conversation: Conversation, command: str, **arguments: object) -> dict[str, Any]:
    conversation.say(command, **arguments)
    heard = conversation.hear()
    if "error" in heard:
        raise AwayError(heard["error"]["desc"])
    answer: dict[str, Any] = heard["return"]
    return answer


def _finished(status: dict[str, Any]) -> Finished:
    printed = b"".join(base64.b64decode(status.get(name, "")) for name in ("out-data", "err-data"))
    code = status.get("exitcode", 128 + status.get("signal", 0))
    return Finished(code, printed.decode(errors="replace"))
