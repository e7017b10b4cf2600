"""``usb-update status``, ``history`` and ``report``."""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent import wiring_results as wiring
from agent.core.errors import AgentError
from agent.core.fleet import Fleet, Reading, merge
from agent.core.record import to_json
from agent.faces.cli import Parser, add_device_options
from agent.faces.grouping import command
from agent.faces.report_page import fleet_page
from agent.faces.tables import fleet_csv, fleet_text, history_text

PIPE_WIDTH = 160  # columns of a table that goes to a file or another program


def add_commands(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Register ``status``, ``history`` and ``report``."""
    status = subparsers.add_parser("status", help="show what the agent is doing")
    status.add_argument("--follow", action="store_true", help="go on until the agent ends")
    status.add_argument("--json", action="store_true", help="print one JSON object per line")
    status.add_argument(
        "--runtime",
        metavar="DIR",
        type=Path,
        default=wiring.RUNTIME,
        help="directory of the running agent's files (default: %(default)s)",
    )
    status.set_defaults(func=_status)
    history = subparsers.add_parser("history", help="list the attempts of this device")
    add_device_options(history)
    history.set_defaults(func=_history)
    _add_report(subparsers)


REPORT_EXAMPLES = """\
examples:
  usb-update report /media/stick
  usb-update report /media/one /media/two --csv fleet.csv --html fleet.html"""


def _add_report(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    report = command(subparsers, "report", "merge the results of sticks into one table")
    report.epilog = REPORT_EXAMPLES
    report.add_argument(
        "sticks",
        metavar="STICK",
        nargs="+",
        type=Path,
        help="mounted stick, its block device, a directory of records, or one record",
    )
    report.add_argument("--csv", metavar="FILE", type=Path, help="write the table as CSV")
    report.add_argument("--html", metavar="FILE", type=Path, help="write the table as a page")
    report.set_defaults(func=_report)


# --- status ----------------------------------------------------------------------------


def _status(args: argparse.Namespace) -> int:
    say = _say_json if args.json else _say_text
    return _follow(args.runtime, say) if args.follow else _status_now(args.runtime, say)


def _status_now(runtime: Path, say: Callable[[dict[str, Any]], None]) -> int:
    said = wiring.status(runtime)
    if said is None:
        print("the agent has said nothing since this boot", file=sys.stderr)
        return 1
    say(said)
    return 0 if said["running"] else 1


def _follow(runtime: Path, say: Callable[[dict[str, Any]], None]) -> int:
    for message in wiring.messages(runtime):
        say(message)
    print("the agent ended", file=sys.stderr)
    return 1


def _say_json(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _say_text(message: dict[str, Any]) -> None:
    idle = "" if message.get("running", True) else " (the agent is not running)"
    parts = (message["title"], message["detail"], _progress_text(message), _left_text(message))
    may = "The stick may be removed." if message["remove_stick"] else "Leave the stick in."
    facts = ". ".join(part.rstrip(".") for part in parts if part)
    print(f"{message['updated_utc']}  {facts}. {may}{idle}", flush=True)


def _progress_text(message: dict[str, Any]) -> str:
    progress = message["progress"]
    if not progress:
        return ""
    done, total = progress["done_bytes"] / 2**20, progress["total_bytes"] / 2**20
    return f"{progress['step']}: {done:.0f} of {total:.0f} MiB" if total else progress["step"]


def _left_text(message: dict[str, Any]) -> str:
    left = message["seconds_left"]
    return "" if left is None else f"{left} s left"


# --- history and report ----------------------------------------------------------------


def _history(args: argparse.Namespace) -> int:
    records = wiring.history(args.config)
    if args.json:
        print(json.dumps([json.loads(to_json(record)) for record in records]))
    else:
        print(history_text(records, width=_width()))
    return 0


def _report(args: argparse.Namespace) -> int:
    readings = [reading for stick in args.sticks if (reading := _reading(stick))]
    fleet = merge(readings)
    print(fleet_text(fleet, width=_width()))
    _write_files(args, fleet)
    return 0 if len(readings) == len(args.sticks) else 1


def _reading(stick: Path) -> Reading | None:
    """Read one stick; one that cannot be read does not keep the others from being read."""
    try:
        return wiring.reading(stick)
    except AgentError as e:
        print(f"{e.message}\n  {e.hint}", file=sys.stderr)
        return None


def _write_files(args: argparse.Namespace, fleet: Fleet) -> None:
    if args.csv:
        wiring.write_report(args.csv, fleet_csv(fleet))
    if args.html:
        page = fleet_page(fleet, made_utc=datetime.now(UTC))
        wiring.write_report(args.html, page.encode())


def _width() -> int:
    return shutil.get_terminal_size((PIPE_WIDTH, 24)).columns
