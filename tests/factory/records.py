"""Records to test with: say only what differs."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from agent.core.outcome import ExitCode, InstallExit, Outcome
from agent.core.record import (
    BundleNames,
    Circumstances,
    DeviceNames,
    MediumNames,
    Record,
    RecordKind,
    Version,
    make_record,
    numbered,
)

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


def circumstances(
    *,
    kind: RecordKind = RecordKind.INSTALL,
    device: str = "pump-07",
    attempt: str = "attempt-1",
    started_utc: datetime = NOON,
    fs_uuid: str = "1234-ABCD",
    label: str = "STICK",
    floor_utc: datetime | None = None,
) -> Circumstances:
    """Return the circumstances of an attempt on an ordinary device."""
    return Circumstances(
        kind=kind,
        attempt=attempt,
        agent_version="0.1.0",
        device=DeviceNames(device, "SN-0007", "raspberrypi4-64"),
        started_utc=started_utc,
        before=Version("raspberrypi4-64-lmp-41", 41, "a" * 64),
        after=Version("raspberrypi4-64-lmp-42", 42, "b" * 64),
        bundle=BundleNames("main", "prod"),
        medium=MediumNames(label, fs_uuid),
        floor_utc=floor_utc,
    )


def record(
    exit: ExitCode = InstallExit.NEEDS_REBOOT,
    *,
    around: Circumstances | None = None,
    sequence: int = 1,
    reason: str = "",
    message: str = "",
    hint: str = "",
    duration_s: float = 60.0,
    events: Sequence[Mapping[str, object]] = (),
) -> Record:
    """Return a numbered record of an ordinary attempt."""
    about = around or circumstances()
    made = make_record(
        about,
        Outcome(exit, "raspberrypi4-64-lmp-42", reason, message, hint, 42),
        ended_utc=about.started_utc + timedelta(seconds=duration_s),
        duration_s=duration_s,
        events=events,
    )
    return numbered(made, sequence)
