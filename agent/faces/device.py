"""The commands that look at a device: the four of ``aklite-offline``, and their kin."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agent.core.config import Configuration, Storage
from agent.core.errors import AgentError
from agent.core.outcome import CheckExit, ExitCode, InstallExit, Outcome, RunExit
from agent.core.policy import Plan, Refusal
from agent.core.promise import Promise
from agent.faces.cli import Parser, add_device_options
from agent.faces.progress import progress
from agent.faces.text import outcome_json, outcome_text, target_json, target_text
from agent.services.attempt import attempt_check, attempt_install, attempt_run
from agent.services.check import current, stand
from agent.services.finish import keep_promise
from agent.services.station import Station, no_progress
from agent.wiring import (
    bundle_medium,
    bundles_in,
    configuration,
    found_medium,
    opened_station,
)
from agent.wiring_command import opened_command

if TYPE_CHECKING:
    from agent.services.logbook import Logbook
    from agent.services.plan import BundleView

Command = Callable[[argparse.Namespace], int]
MakeLogbook = Callable[[], "Logbook"]
Walk = Callable[[Station, MakeLogbook, Storage], Outcome]


def add_commands(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Register ``config``, ``plan`` and ``forgive``."""
    config = subparsers.add_parser("config", help="print the effective settings")
    add_device_options(config)
    config.set_defaults(func=_config)
    plan = subparsers.add_parser("plan", help="explain every bundle and Target found")
    add_device_options(plan)
    plan.add_argument("path", metavar="PATH", type=Path, nargs="?", default=Path(), help="a stick")
    plan.set_defaults(func=_plan)
    forgive = subparsers.add_parser("forgive", help="release Targets from quarantine")
    add_device_options(forgive)
    forgive.add_argument("target", metavar="TARGET", nargs="?", help="only this one")
    forgive.set_defaults(func=_forgive)


# --- the four of aklite-offline --------------------------------------------------------


def _check(args: argparse.Namespace) -> int:
    def walk(station: Station, _logbook: MakeLogbook, storage: Storage) -> Outcome:
        return attempt_check(station, bundle_medium(args.src_dir, storage), name=args.target)

    return _answer(args, walk)


def _install(args: argparse.Namespace) -> int:
    def walk(station: Station, logbook: MakeLogbook, storage: Storage) -> Outcome:
        from agent.core.record import RecordKind  # noqa: PLC0415  see `wiring_command`

        entry = logbook().open(station, RecordKind.INSTALL)
        outcome = attempt_install(
            station, bundle_medium(args.src_dir, storage), name=args.target, force=args.force
        )
        entry.note(station.versions.pending())
        entry.close(outcome, owed=False)
        return outcome

    return _answer(args, walk)


def _run(args: argparse.Namespace) -> int:
    def walk(station: Station, logbook: MakeLogbook, _storage: Storage) -> Outcome:
        promise = station.ledger.promised()
        if promise is None:
            return attempt_run(station)
        outcome = _recorded_run(station, logbook(), promise)
        keep_promise(station, outcome)
        return outcome

    return _answer(args, walk)


def _recorded_run(station: Station, logbook: "Logbook", promise: Promise) -> Outcome:
    from agent.core.record import RecordKind  # noqa: PLC0415  see `wiring_command`

    entry = logbook.open(station, RecordKind.RUN, attempt=promise.attempt)
    entry.note(promise.target)
    outcome = attempt_run(station)
    entry.close(outcome, owed=False)
    return outcome


def _current(args: argparse.Namespace) -> int:
    with opened_station(configuration(args.config), exclusive=False) as station:
        target = current(station)
    print(target_json(target) if args.json else target_text(target))
    return 0


FOUR: dict[str, Command] = {
    "check": _check,
    "install": _install,
    "run": _run,
    "current": _current,
}
EXITS: dict[str, type[ExitCode]] = {"check": CheckExit, "install": InstallExit, "run": RunExit}


def _answer(args: argparse.Namespace, walk: Walk) -> int:
    """Open the device, run the command, say what came of it."""
    bar = progress()
    try:
        found = configuration(args.config)
        with opened_command(found, progress=bar or no_progress, log_level=args.log_level) as (
            station,
            logbook,
        ):
            outcome = walk(station, logbook, found.settings.storage)
    except AgentError as e:
        outcome = Outcome(
            EXITS[args.command].of(1), reason=e.reason, message=e.message, hint=e.hint
        )
    finally:
        if bar:
            bar.close()
    said = outcome_json(outcome, args.command, args.program)
    print(said if args.json else outcome_text(outcome, args.program))
    return int(outcome.exit)


# --- config, plan, forgive -------------------------------------------------------------


def _config(args: argparse.Namespace) -> int:
    found = configuration(args.config)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(_config_json(found) if args.json else _config_text(found))
    return 0


def _config_text(found: Configuration) -> str:
    lines: list[str] = []
    for section in dict.fromkeys(entry.section for entry in found.entries):
        lines.append(f"[{section}]")
        lines += [
            f"{entry.key} = {entry.text}  # {entry.source or 'default'}"
            for entry in found.entries
            if entry.section == section
        ]
        lines.append("")
    return "\n".join(lines).rstrip()


def _config_json(found: Configuration) -> str:
    return json.dumps(
        {
            f"{entry.section}.{entry.key}": {"value": entry.text, "source": entry.source}
            for entry in found.entries
        }
    )


def _plan(args: argparse.Namespace) -> int:
    from agent.services.plan import look  # noqa: PLC0415  `run` looks at no bundle

    found = configuration(args.config)
    with opened_station(found, log_level=args.log_level, exclusive=False) as station:
        standing, paths = stand(station), bundles_in(args.path)
        media = [(str(path), found_medium(path, found.settings.storage)) for path in paths]
        views = [look(station, standing, origin, medium) for origin, medium in media]
    if args.json:
        print(json.dumps([_view_json(view) for view in views]))
    else:
        print("\n\n".join(map(_view_text, views)) or f"No bundle was found in '{args.path}'.")
    return 0 if views else int(InstallExit.METADATA_NOT_FOUND)


def _view_text(view: "BundleView") -> str:
    if view.error is not None:
        return f"{view.origin}: refused ({int(view.error.exit)}): {view.error.message}"
    tag = f", tag {view.tag}" if view.tag else ""
    expires = f", expires {view.expires:%Y-%m-%d}" if view.expires else ""
    lines = [f"{view.origin}: verified{tag}{expires}"]
    for target, refusal in ((seen.target, seen.refusal) for seen in view.targets):
        verdict = f"refused ({int(refusal.exit)}): {refusal.message}" if refusal else "fits"
        lines.append(f"  {target.name} (version {target.version}): {verdict}")
    return "\n".join([*lines, f"  => {_decision_text(view.decision)}"])


def _decision_text(decision: Plan | Refusal | None) -> str:
    if isinstance(decision, Plan):
        how = "a reboot" if decision.needs_boot else "no reboot"
        return f"{decision.target.name} would be installed; it needs {how}"
    return f"nothing to install: {decision.message}" if decision else "nothing to install"


def _view_json(view: "BundleView") -> dict[str, object]:
    decision = view.decision
    return {
        "origin": view.origin,
        "tag": view.tag,
        "expires": view.expires.isoformat() if view.expires else None,
        "refused": _error_json(view.error),
        "targets": [
            {
                "target": seen.target.name,
                "version": seen.target.version,
                "refused": _refusal_json(seen.refusal),
            }
            for seen in view.targets
        ],
        "install": decision.target.name if isinstance(decision, Plan) else None,
        "nothing_to_install": _refusal_json(decision if isinstance(decision, Refusal) else None),
    }


def _error_json(error: AgentError | None) -> dict[str, object] | None:
    return _why(int(error.exit), error.reason, error.message, error.hint) if error else None


def _refusal_json(refusal: Refusal | None) -> dict[str, object] | None:
    if refusal is None:
        return None
    return _why(int(refusal.exit), refusal.reason, refusal.message, refusal.hint)


def _why(code: int, reason: str, message: str, hint: str) -> dict[str, object]:
    return {"exit": code, "reason": reason, "message": message, "hint": hint}


def _forgive(args: argparse.Namespace) -> int:
    with opened_station(configuration(args.config), log_level=args.log_level) as station:
        released = station.ledger.forgive(args.target)
    print(f"Released: {', '.join(released)}" if released else "No Target is in quarantine.")
    return 0
