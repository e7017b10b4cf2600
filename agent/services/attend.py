"""Attend to one stick, from the door to the letterbox; then finish after the boot.

In: a `BlockEvent`. Effects, always in this order: mount read-only, judge every bundle,
install the best, unmount, keep the record, mount read-write for a moment, deliver, tell the
person that the stick may go, and only then ask for the reboot. This path never forces,
never goes back to an older version, and never retries what rolled back here.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from agent.core.errors import MetadataNotFoundError
from agent.core.feedback import Progress, Stage, signal_from_stage
from agent.core.outcome import CheckExit, InstallExit, Outcome, RunExit
from agent.core.policy import Plan, Refusal
from agent.core.promise import Phase, Promise
from agent.core.record import MediumNames, Record, RecordKind
from agent.core.stick import BlockEvent
from agent.core.target import Target
from agent.log import bound, get_logger
from agent.ports import Letterbox, Medium, Mounts, Signals
from agent.services.attempt import attempt, attempt_run
from agent.services.check import check, closed_door, stand
from agent.services.finish import keep_promise
from agent.services.install import install
from agent.services.logbook import Entry, Logbook
from agent.services.plan import BundleView, choose_bundle, look
from agent.services.station import Station

log = get_logger()

HOLD = "usb-update.hold"  # on a stick: look, do not install. It can only narrow.


@dataclass(frozen=True, slots=True)
class House:
    """What attending needs beside the device itself.

    Attributes:
        opened_station: opens the device, alone, for one attempt.
        mounts: sticks in the file tree.
        find_bundles: bundles of a mounted stick: directories and packs.
        medium: opens one of them.
        is_there: whether a name exists on a stick, whatever it is.
        letterbox: opens a stick that is mounted for writing.
        logbook: records.
        consent: asks for a yes before an install; False when it was not given.
        breathe: called now and then during a long copy, to hear what else goes on.
        automatic: whether sticks install by themselves; else they are only read.
        results: whether records go on sticks.
    """

    opened_station: Callable[[], AbstractContextManager[Station]]
    mounts: Mounts
    find_bundles: Callable[[Path], Sequence[Path]]
    medium: Callable[[Path], Medium]
    is_there: Callable[[Path], bool]
    letterbox: Callable[[Path], Letterbox]
    logbook: Logbook
    consent: Callable[[BlockEvent, Target], bool]
    breathe: Callable[[], None]
    automatic: bool = True
    results: bool = True

    @property
    def signals(self) -> Signals:
        """Everything that tells a person."""
        return self.logbook.reporter.signals


def attend(house: House, event: BlockEvent) -> Outcome:
    """Walk with one stick and say what came of it; 100 asks the caller for a reboot."""
    house.signals.show(signal_from_stage(Stage.LOOKING, detail=event.label))
    with bound(medium=event.fs_uuid or event.devnode):
        outcome = attempt("attend", InstallExit, lambda: _visit(house, event))
        _deliver(house, event)
        house.logbook.reporter.announce(outcome)
    return outcome


def finish_and_report(house: House) -> Outcome:
    """Do the post-boot ``run``; its record is kept before the promise goes."""
    with house.opened_station() as station:
        promise = station.ledger.promised()
        if promise is None:
            outcome = attempt_run(station)
        else:
            house.signals.show(signal_from_stage(Stage.STARTING_APPS))
            medium = MediumNames(fs_uuid=promise.fs_uuid)
            outcome = _run(house, station, promise.attempt, medium, promise.target)
    house.logbook.reporter.announce(outcome)
    return outcome


def _visit(house: House, event: BlockEvent) -> Outcome:
    with house.opened_station() as station:
        medium = MediumNames(event.label, event.fs_uuid)
        entry = house.logbook.open(station, RecordKind.INSTALL, medium=medium)
        outcome = attempt("install", InstallExit, lambda: _walk(house, entry, event))
        if event.seqnum == 0 and _said_before(house, entry, outcome):
            log.info("result.repeated", code=int(outcome.exit), reason=outcome.reason)
            entry.drop()
            return outcome
        entry.close(outcome)
        if outcome.exit is InstallExit.NEEDS_RUN:
            house.signals.show(signal_from_stage(Stage.STARTING_APPS))
            promised = station.versions.pending()
            return _run(house, station, entry.around.attempt, medium, promised)
    return outcome


def _run(
    house: House, station: Station, attempt_id: str, medium: MediumNames, target: Target | None
) -> Outcome:
    entry = house.logbook.open(station, RecordKind.RUN, attempt=attempt_id, medium=medium)
    entry.note(target)
    outcome = attempt_run(station)
    entry.close(outcome)
    keep_promise(station, outcome)
    return outcome


# --- while the stick is mounted ---------------------------------------------------------


def _walk(house: House, entry: Entry, event: BlockEvent) -> Outcome:
    station = entry.station
    with house.mounts.mounted_ro(event) as root:
        if refusal := closed_door(station):
            return refusal.outcome()
        house.signals.show(signal_from_stage(Stage.CHECKING))
        view = _best_bundle(house, station, root)
        decision = check(station, view.medium, automatic=True)
        entry.note(decision.target, tag=view.tag, bundle_type=view.bundle_type)
        if isinstance(decision, Refusal):
            return decision.outcome()
        if not house.automatic or house.is_there(root / HOLD):
            entry.only_looked()
            return _held(decision)
        if not house.consent(event, decision.target):
            return _not_confirmed(decision)
        return _install(house, entry, view.medium, decision)


def _best_bundle(house: House, station: Station, root: Path) -> BundleView:
    paths = house.find_bundles(root)
    standing = stand(station)
    views = [look(station, standing, _origin(path, root), house.medium(path)) for path in paths]
    for view in views:
        refused = view.error.reason if view.error else ""
        log.info("bundle.found", origin=view.origin, refused=refused)
    best = choose_bundle(views)
    if best is None:
        raise MetadataNotFoundError(
            "the stick holds no bundle: no directory with 'tuf/' and no '.usbu' file in its "
            "root, in 'usb-update/' or two levels down",
            hint="copy the whole bundle directory, or the whole file, to the stick",
        )
    return best


def _install(house: House, entry: Entry, medium: Medium, plan: Plan) -> Outcome:
    station, around = entry.station, entry.around
    origin = Promise(
        plan.target,
        Phase.COPYING,
        station.boots.boot_id(),
        plan.needs_boot,
        around.before.commit,
        attempt=around.attempt,
        fs_uuid=around.medium.fs_uuid,
    )
    watched = replace(station, progress=_progress(house))
    return install(watched, medium, plan, origin=origin)


def _held(plan: Plan) -> Outcome:
    return Outcome(
        CheckExit.UPDATE_FOUND,
        plan.target.name,
        "held",
        f"{plan.target.name!r} fits this device; it was only looked at, because of "
        f"'{HOLD}' on the stick or auto = false in the configuration",
        "",
        plan.target.version,
    )


def _not_confirmed(plan: Plan) -> Outcome:
    return Outcome(
        CheckExit.UPDATE_FOUND,
        plan.target.name,
        "not_confirmed",
        f"{plan.target.name!r} was not installed: nobody confirmed it, or the stick was pulled",
        "plug the stick in again, and confirm",
        plan.target.version,
    )


def _progress(house: House) -> Callable[[str, int, int], None]:
    def show(step: str, done: int, total: int) -> None:
        progress = Progress(step, done, total)
        house.signals.show(signal_from_stage(Stage.COPYING, progress=progress))
        house.breathe()

    return show


def _origin(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path != root else "the stick"


# --- when it is not mounted any more ----------------------------------------------------


def _said_before(house: House, entry: Entry, outcome: Outcome) -> bool:
    """Whether a stick that stayed in its port would only repeat its last record.

    An install that succeeded is not news either once the stick finds it running.
    """
    last = _last_record(house, entry.around.medium.fs_uuid)
    if last is None:
        return False
    same = (last.answer.code, last.answer.reason) == (int(outcome.exit), outcome.reason)
    nothing_new = outcome.reason in ("already_installed", "quarantined", "downgrade")
    return same or (nothing_new and last.after.target == entry.around.after.target)


def _last_record(house: House, fs_uuid: str) -> Record | None:
    history = reversed(house.logbook.reporter.results.history())
    mine = (r for r in history if r.medium.fs_uuid == fs_uuid and r.kind is not RecordKind.RUN)
    return next(mine, None)


def _deliver(house: House, event: BlockEvent) -> None:
    """Put what is owed on the stick; what cannot be put there waits for the next visit."""
    reporter = house.logbook.reporter
    if not house.results or not reporter.results.owed():
        return

    def post() -> Outcome:
        with house.mounts.mounted_rw(event) as root:
            reporter.deliver(house.letterbox(root), fs_uuid=event.fs_uuid)
        return Outcome(RunExit.OK, reason="delivered")

    attempt("deliver", InstallExit, post)
