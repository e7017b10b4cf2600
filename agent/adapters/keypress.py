"""A key that says yes: a button on GPIO, or any key the kernel's input layer knows.

In: ``[usb_update] confirm_key``: an input device by path or by its name, and optionally
``#CODE`` for one key of it, for example ``/dev/input/event0`` or ``gpio-keys#28``.

Source: linux/input.h ``struct input_event``, linux/input-event-codes.h.
"""

import os
import re
import struct
from pathlib import Path

from agent.log import get_logger

log = get_logger()

INPUT_EVENT = struct.Struct("@llHHi")  # time in two longs, type, code, value
EV_KEY, PRESSED = 0x01, 1  # 0 is released, 2 repeats
EVENTS_AT_ONCE = 64
SYS_INPUT = Path("/sys/class/input")
_WITH_CODE = re.compile(r"(?P<device>.+?)(?:#(?P<code>[0-9]{1,3}))?", re.ASCII | re.DOTALL)


class Key:
    """`Confirmations` by a key; the poll watches `fileno` and calls `read`.

    Args:
        device: the input device.
        code: the only key that counts; None for any.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, device: Path, code: int | None = None) -> None:
        self._code = code
        self._asked = self._given = False
        self._fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)

    def fileno(self) -> int:
        """Return the descriptor to watch for POLLIN."""
        return self._fd

    def read(self) -> None:
        """Take every waiting event; those that nobody asked for are forgotten."""
        try:
            data = os.read(self._fd, INPUT_EVENT.size * EVENTS_AT_ONCE)
        except BlockingIOError:
            return
        self._given |= self._asked and pressed(data, self._code)

    def ask(self) -> None:
        """See `ports.Confirmations`."""
        self.read()
        self._asked, self._given = True, False

    def given(self) -> bool:
        """See `ports.Confirmations`."""
        return self._given

    def close(self) -> None:
        """See `ports.Confirmations`."""
        self._asked = False

    def end(self) -> None:
        """Close the device."""
        os.close(self._fd)


def pressed(data: bytes, code: int | None) -> bool:
    """Whether these ``struct input_event`` hold a press of the key; a torn one is none."""
    whole = data[: len(data) - len(data) % INPUT_EVENT.size]
    return any(
        kind == EV_KEY and value == PRESSED and code in (None, number)
        for _, _, kind, number, value in INPUT_EVENT.iter_unpack(whole)
    )


def open_key(setting: str, *, sys_input: Path = SYS_INPUT) -> Key | None:
    """Open the key a configuration names; None when it names none, or it is not there.

    A button that is missing must not keep sticks from being read: ``usb-update confirm``
    still works.
    """
    match = _WITH_CODE.fullmatch(setting)
    if match is None:
        return None
    code = int(match["code"]) if match["code"] else None
    try:
        return Key(_device(match["device"], sys_input), code)
    except OSError as e:
        log.warning("key.unavailable", confirm_key=setting, error=str(e))
        return None


def _device(name: str, sys_input: Path) -> Path:
    if name.startswith("/"):
        return Path(name)
    for file in sorted(sys_input.glob("event*/device/name")):
        if file.read_text("utf-8", "replace").strip() == name:
            return Path("/dev/input", file.parts[-3])
    raise FileNotFoundError(f"no input device has the name {name!r}")
