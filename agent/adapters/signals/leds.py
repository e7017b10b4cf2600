"""Lamps: the kernel's LEDs, by name, blinking by themselves (docs/status.md).

The ``pattern`` trigger plays every rhythm; a kernel without it gets the ``timer`` trigger
and a regular blink of the same mood's speed. Either way no process wakes to blink.

Source: Documentation/ABI/testing/sysfs-class-led, sysfs-class-led-trigger-pattern.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from agent.core.feedback import Blink, Signal

LEDS_ROOT = Path("/sys/class/leds")
LED_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,63}", re.ASCII)

# Milliseconds on, off, on, off, ...
_RHYTHMS = {
    Blink.SLOW: (1000, 1000),
    Blink.DOUBLE_LONG: (600, 300, 600, 1500),
    Blink.TWO_SHORT: (150, 150, 150, 1200),
    Blink.THREE_SHORT: (150, 150, 150, 150, 150, 1200),
    Blink.FAST: (100, 100),
}
# Milliseconds on and off, for kernels without the pattern trigger.
_REGULAR = {
    Blink.SLOW: (1000, 1000),
    Blink.DOUBLE_LONG: (1500, 500),
    Blink.TWO_SHORT: (150, 1200),
    Blink.THREE_SHORT: (400, 400),
    Blink.FAST: (100, 100),
}


@dataclass(slots=True)
class Leds:
    """The lamps of this device, all showing the same.

    Attributes:
        names: directory names below ``root``, from the configuration.
        root: the kernel's LED class.
    """

    names: Sequence[str]
    root: Path = LEDS_ROOT
    _last: Blink | None = None
    _before: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names that are not names.

        Raises:
            ValueError: one of them.
        """
        for name in self.names:
            if not LED_NAME.fullmatch(name):
                raise ValueError(f"LED name {name!r} is not a name below '{self.root}'")

    def show(self, signal: Signal) -> None:
        """See `bus.Sink`."""
        if signal.blink is self._last:
            return
        failures = [e for name in self.names if (e := self._try(name, signal.blink))]
        if failures:
            raise failures[0]
        self._last = signal.blink

    def restore(self) -> None:
        """Give every lamp back to the trigger it had before; a lamp that is gone is let be."""
        for name, trigger in self._before.items():
            lamp = self.root / name
            if (lamp / "trigger").exists():
                _write(lamp / "trigger", trigger)
        self._last = None

    def _try(self, name: str, blink: Blink) -> OSError | None:
        try:
            self._blink(name, blink)
        except OSError as e:
            return e
        return None

    def _blink(self, name: str, blink: Blink) -> None:
        lamp = self.root / name
        triggers = (lamp / "trigger").read_text(encoding="ascii")
        self._before.setdefault(name, _selected(triggers))
        if blink in (Blink.OFF, Blink.STEADY):
            _write(lamp / "trigger", "none")
            _write(lamp / "brightness", str(_brightest(lamp)) if blink is Blink.STEADY else "0")
        elif "pattern" in re.findall(r"[\w-]+", triggers):
            _write(lamp / "trigger", "pattern")
            _write(lamp / "pattern", _pattern(_RHYTHMS[blink], _brightest(lamp)))
        else:
            _write(lamp / "trigger", "timer")
            on_ms, off_ms = _REGULAR[blink]
            _write(lamp / "delay_on", str(on_ms))
            _write(lamp / "delay_off", str(off_ms))


def _selected(triggers: str) -> str:
    found = re.search(r"\[([\w-]+)\]", triggers)
    return found[1] if found else "none"


def _brightest(lamp: Path) -> int:
    return int((lamp / "max_brightness").read_text(encoding="ascii"))


def _pattern(rhythm: Sequence[int], brightest: int) -> str:
    """Spell a rhythm for the pattern trigger; the zero lengths make it switch, not fade."""
    levels = (brightest if index % 2 == 0 else 0 for index in range(len(rhythm)))
    steps = ((level, length, level, 0) for level, length in zip(levels, rhythm, strict=True))
    return " ".join(str(number) for number in chain.from_iterable(steps))


def _write(path: Path, value: str) -> None:
    path.write_text(value, encoding="ascii")
