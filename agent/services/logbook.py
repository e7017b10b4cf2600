"""The device's logbook: one entry an attempt, opened before it and closed after it.

In: what is known when an attempt begins, and its outcome. Out: a `Record`, kept on the
device; whether a stick gets it as well is the reporter's business.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.core.outcome import Outcome
from agent.core.record import (
    BundleNames,
    Circumstances,
    DeviceNames,
    MediumNames,
    Record,
    RecordKind,
    version_from_target,
)
from agent.core.target import Target
from agent.services.check import current
from agent.services.report import Reporter
from agent.services.station import Station


@dataclass(frozen=True, slots=True)
class Logbook:
    """Opens entries.

    Attributes:
        reporter: keeps the records.
        device: names for the record.
        agent_version: for the record.
        monotonic: seconds of a clock that cannot jump.
        take_events: returns what was logged since the last call.
    """

    reporter: Reporter
    device: DeviceNames
    agent_version: str
    monotonic: Callable[[], float]
    take_events: Callable[[], Sequence[Mapping[str, object]]]

    def open(
        self,
        station: Station,
        kind: RecordKind,
        *,
        attempt: str = "",
        medium: MediumNames | None = None,
    ) -> "Entry":
        """Open an entry: what runs now is what ran before.

        Args:
            station: the device.
            kind: what the entry tells of.
            attempt: id of the attempt it belongs to; empty draws a new one.
            medium: the stick, if there is one.
        """
        runs = version_from_target(current(station))
        around = Circumstances(
            kind=kind,
            attempt=attempt or str(uuid.uuid4()),
            agent_version=self.agent_version,
            device=replace(self.device, hardware_id=station.versions.hardware_id()),
            started_utc=station.clock.now(),
            before=runs,
            after=runs,
            medium=medium or MediumNames(),
            floor_utc=station.ledger.last_seen_utc(),
        )
        return Entry(self, station, around, self.monotonic())


@dataclass(slots=True)
class Entry:
    """An attempt that is going on.

    Attributes:
        logbook, station: where it belongs.
        around: what is known so far.
        started_s: by the clock that cannot jump.
    """

    logbook: Logbook
    station: Station
    around: Circumstances
    started_s: float

    def note(self, target: Target | None, *, tag: str = "", bundle_type: str = "") -> None:
        """Note which Target it is about, and of which bundle."""
        after = version_from_target(target) if target else self.around.after
        self.around = replace(self.around, after=after, bundle=BundleNames(tag, bundle_type))

    def only_looked(self) -> None:
        """Note that nothing was to be installed."""
        self.around = replace(self.around, kind=RecordKind.PLAN)

    def close(self, outcome: Outcome, *, owed: bool = True) -> Record:
        """Make the record and keep it on the device.

        Args:
            outcome: what came of it.
            owed: whether a stick is to get it; what a person typed, the person has read.
        """
        reporter = self.logbook.reporter
        record = reporter.keep(
            self.around,
            outcome,
            ended_utc=self.station.clock.now(),
            duration_s=self.logbook.monotonic() - self.started_s,
            events=self.logbook.take_events(),
        )
        if not owed:
            reporter.results.settle(record)
        return record

    def drop(self) -> None:
        """Forget it: it would only repeat an earlier one."""
        self.logbook.take_events()
