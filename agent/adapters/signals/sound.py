"""Sounds at the end of an attempt: the terminal's bell, or the speaker of a PC.

As many as the lamp's flashes: two short, done; three short, refused; one long, failed; one
short when a person is asked for something. Everything else is silent.
"""

import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.signals.console import write_to_tty
from agent.core.feedback import Mood, Signal, Stage

PITCH_HZ = 880
SHORT_S, LONG_S, GAP_S = 0.12, 0.8, 0.12  # at most 0.84 s in all, when nothing else runs
# linux/input-event-codes.h
EV_SND, SND_TONE = 0x12, 0x02
INPUT_EVENT = struct.Struct("@llHHi")

_TONES = {
    Mood.DONE: (SHORT_S, SHORT_S),
    Mood.REFUSED: (SHORT_S, SHORT_S, SHORT_S),
    Mood.FAILED: (LONG_S,),
    Mood.WAITING: (SHORT_S,),
}
_HEARD = (
    Stage.FINISHED,
    Stage.SAFE_TO_REMOVE,
    Stage.WAITING_FOR_CONFIRMATION,
    Stage.COUNTDOWN,
)


def tones(signal: Signal) -> tuple[float, ...]:
    """Return the lengths, in seconds, of the tones a signal is worth."""
    return _TONES.get(signal.mood, ()) if signal.stage in _HEARD else ()


@dataclass(slots=True)
class Bell:
    """The bell of a terminal.

    Attributes:
        path: for example ``/dev/tty1``.
        sleep: waits so many seconds.
    """

    path: Path
    sleep: Callable[[float], None] = time.sleep
    _last: Stage | None = None

    def show(self, signal: Signal) -> None:
        """See `bus.Sink`."""
        again, self._last = signal.stage is self._last, signal.stage
        for seconds in () if again else tones(signal):
            write_to_tty(self.path, b"\a")
            self.sleep(seconds + GAP_S)


@dataclass(slots=True)
class Beeper:
    """The speaker of a PC, an input device that takes tones.

    Attributes:
        path: for example ``/dev/input/by-path/platform-pcspkr-event-spkr``.
        sleep: waits so many seconds.
    """

    path: Path
    sleep: Callable[[float], None] = time.sleep
    _last: Stage | None = None

    def show(self, signal: Signal) -> None:
        """See `bus.Sink`."""
        again, self._last = signal.stage is self._last, signal.stage
        lengths = () if again else tones(signal)
        if lengths:
            self._play(lengths)

    def _play(self, lengths: tuple[float, ...]) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            for seconds in lengths:
                os.write(fd, INPUT_EVENT.pack(0, 0, EV_SND, SND_TONE, PITCH_HZ))
                self.sleep(seconds)
                os.write(fd, INPUT_EVENT.pack(0, 0, EV_SND, SND_TONE, 0))
                self.sleep(GAP_S)
        finally:
            os.close(fd)
