"""Telling what came of it: outcome and events to record, stick, history and signals.

The record is kept on the device first, so that it survives whatever the stick does; then it
is delivered, then a person is told that the stick may go. Nothing here can fail an update.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from agent.core.feedback import Stage, signal_from_outcome, signal_from_stage
from agent.core.outcome import Outcome
from agent.core.record import Circumstances, Delivery, Posted, Record, make_record
from agent.log import get_logger
from agent.ports import Letterbox, Results, Signals

log = get_logger()

# Trying the next record on the same stick would meet the same.
HOPELESS = (Posted.READ_ONLY, Posted.FULL, Posted.GONE)


@dataclass(frozen=True, slots=True)
class Reporter:
    """What one device tells of itself.

    Attributes:
        results: records on the device.
        signals: everything that tells a person.
    """

    results: Results
    signals: Signals

    def keep(
        self,
        around: Circumstances,
        outcome: Outcome,
        *,
        ended_utc: datetime,
        duration_s: float,
        events: Iterable[Mapping[str, object]] = (),
    ) -> Record:
        """Make the record of an attempt, a ``run`` or a ``plan``; keep it, owe it to a stick.

        Args:
            around: the device, the stick, the beginning.
            outcome: what came of it.
            ended_utc: by the system clock.
            duration_s: by a clock that cannot jump.
            events: structlog events of it, oldest first.
        """
        record = make_record(
            around, outcome, ended_utc=ended_utc, duration_s=duration_s, events=events
        )
        kept = self.results.keep(record)
        log.info("result.kept", sequence=kept.sequence, record=kept.id)
        return kept

    def deliver(self, letterbox: Letterbox, *, fs_uuid: str) -> tuple[Delivery, ...]:
        """Write what is owed to the stick that is here, its own records first.

        A record of another stick is delivered as well, and says whose it is: the technician
        who comes next may carry a different stick, and a result nobody reads helps nobody.

        Args:
            letterbox: the stick, mounted for writing.
            fs_uuid: of its file system.
        """
        owed = self.results.owed()
        if not owed:
            return ()
        self.signals.show(signal_from_stage(Stage.WRITING_RESULT))
        deliveries: list[Delivery] = []
        for record in sorted(owed, key=lambda record: record.medium.fs_uuid != fs_uuid):
            deliveries.append(self._deliver(letterbox, record))
            if deliveries[-1].posted in HOPELESS:
                break
        return tuple(deliveries)

    def _deliver(self, letterbox: Letterbox, record: Record) -> Delivery:
        delivery = letterbox.put(record)
        if delivery.arrived:
            self.results.settle(record)
            log.info("result.delivered", sequence=record.sequence, path=delivery.detail)
        else:
            log.warning(
                "result.held",
                sequence=record.sequence,
                posted=delivery.posted.value,
                error=delivery.detail,
            )
        return delivery

    def announce(self, outcome: Outcome) -> None:
        """Tell what came of it, and promise that the stick may go: call after unmounting."""
        self.signals.show(signal_from_outcome(outcome, released=True))
