"""One signal to every sink; progress no more than twice a second."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from agent.core.feedback import Signal
from agent.log import get_logger

log = get_logger()

PROGRESS_INTERVAL_S = 0.5  # an eye needs no more, a flash memory deserves no more


class Sink(Protocol):
    """One way of telling."""

    def show(self, signal: Signal) -> None:
        """Tell it.

        Raises:
            OSError: it cannot be told this way.
        """


@dataclass(slots=True)
class SignalBus:
    """`Signals`: every sink this device has.

    Attributes:
        sinks: told in this order.
        monotonic: seconds of a clock that cannot jump.
    """

    sinks: Sequence[Sink]
    monotonic: Callable[[], float] = time.monotonic
    _last: Signal | None = None
    _last_at: float = 0.0
    _silent: set[int] = field(default_factory=set)

    def show(self, signal: Signal) -> None:
        """See `ports.Signals`."""
        now = self.monotonic()
        if self._is_chatter(signal, now):
            return
        self._last, self._last_at = signal, now
        for sink in self.sinks:
            self._tell(sink, signal)

    def _is_chatter(self, signal: Signal, now: float) -> bool:
        """Whether only bytes moved on, and too little time with them."""
        if signal == self._last:
            return True
        if self._last is None or self._last.progress is None or signal.progress is None:
            return False
        moved = replace(self._last.progress, done=signal.progress.done)
        early = now - self._last_at < PROGRESS_INTERVAL_S
        complete = signal.progress.done == signal.progress.total
        return early and not complete and replace(self._last, progress=moved) == signal

    def _tell(self, sink: Sink, signal: Signal) -> None:
        try:
            sink.show(signal)
        except (OSError, ValueError) as e:
            if id(sink) not in self._silent:
                log.warning("signal.unavailable", sink=type(sink).__name__, error=str(e))
            self._silent.add(id(sink))
        else:
            self._silent.discard(id(sink))
