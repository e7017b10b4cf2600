"""``usb-update stick``: make one, examine one. Arguments in, words and an exit status out."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.core import stickplan
from agent.core.authoring import write_date
from agent.core.bundletype import BundleType
from agent.core.config import Settings
from agent.core.errors import UsageError
from agent.core.finding import Level, worst
from agent.core.stickplan import FILE_SYSTEMS, MIB, STICK_DIRECTORY
from agent.faces import progress
from agent.faces.cli import Parser
from agent.faces.findings import findings_json, findings_text
from agent.services import stickdoctor, stickmaker
from agent.services.author import DeviceGuess, demand_roots
from agent.services.station import no_progress
from agent.services.stickdoctor import Profile
from agent.services.stickmaker import StickDesk, Written
from agent.wiring import configuration
from agent.wiring_stick import device_of, stick_desk

OK, FAILED, STOPPED = 0, 1, 2
MAKE_EXITS = """\
examples:
  usb-update stick make /media/stick bundles/rpi-42
  usb-update stick make /media/stick rpi=bundles/rpi-42 imx=bundles/imx-17 update-42.usbu
  usb-update stick make --format vfat --yes /dev/sdb rpi=bundles/rpi-42

exit statuses:
    0  The stick is whole and may be pulled out.
    1  It could not be made; devices see on it what was there before.
    2  --format without --yes: nothing was touched, only shown what would be lost."""
DOCTOR_EXITS = """\
examples:
  usb-update stick doctor /media/stick --profile roof-device.toml --deep
  usb-update stick doctor /dev/sdb --tag main --hardware-id raspberrypi4-64 --roots keys/roots

exit statuses:
    0  The device would install from this stick; there may be warnings.
    1  The stick could not be examined.
    2  The device would refuse it, or the stick is not sound."""
DEFAULT_LABEL = "USBUPDATE"
PULL_IT = "The stick may be pulled out."


def add_commands(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Register ``stick`` and its verbs."""
    stick = subparsers.add_parser("stick", help="write bundles to a stick, or examine one")
    verbs = stick.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    _add_make(verbs)
    _add_doctor(verbs)


def _verb(
    verbs: "argparse._SubParsersAction[Parser]", name: str, summary: str, exits: str
) -> Parser:
    return verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=exits,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_make(verbs: "argparse._SubParsersAction[Parser]") -> None:
    make = _verb(verbs, "make", "write bundles to a stick and read them back", MAKE_EXITS)
    add = make.add_argument
    add("device", metavar="DEVICE", type=Path, help="where the stick is mounted, or its device")
    add(
        "bundles",
        metavar="[NAME=]BUNDLE",
        nargs="*",
        help="a bundle's directory or .usbu file; it goes to "
        f"{STICK_DIRECTORY}/NAME, by default its own name",
    )
    add("--format", choices=FILE_SYSTEMS, help="erase DEVICE and make this file system first")
    add("--yes", action="store_true", help="with --format: do it; without, show what would be lost")
    add("--label", metavar="L", default=DEFAULT_LABEL, help=f"with --format ({DEFAULT_LABEL})")
    add("--roots", metavar="DIR", type=Path, help="judge the bundles by a device's ci/ and prod/")
    add("--json", action="store_true", help="print one JSON object")
    make.set_defaults(func=_make)


def _add_doctor(verbs: "argparse._SubParsersAction[Parser]") -> None:
    summary = "say what would make a device refuse a stick, and how to mend it"
    doctor = _verb(verbs, "doctor", summary, DOCTOR_EXITS)
    add = doctor.add_argument
    add("device", metavar="DEVICE", type=Path, help="where the stick is mounted, or its device")
    add("--profile", metavar="TOML", type=Path, help="a device's configuration: says all of these:")
    add("--tag", metavar="TAG", action="append", default=[], help="of the device; repeatable")
    add("--hardware-id", metavar="ID", default="", help="of the device")
    add("--type", choices=("ci", "prod"), help="of the device; default: the bundle's")
    add("--roots", metavar="DIR", type=Path, help="the device's roots: holds ci/ and prod/")
    add("--deep", action="store_true", help="read all content, too")
    add(
        "--fix",
        action="store_true",
        help="remove what macOS and Windows left among the Apps, and line ends in 'uri'",
    )
    add(
        "--probe-capacity",
        action="store_true",
        help="fill the free space and read it back: takes long, and what is on a fake stick may "
        "be lost; the files are removed afterwards",
    )
    add("--json", action="store_true", help="print one JSON object")
    doctor.set_defaults(func=_doctor)


# --- make ------------------------------------------------------------------------------


def _make(args: argparse.Namespace) -> int:
    try:
        with _desk() as desk:
            return make(desk, args)
    except KeyboardInterrupt:
        print("interrupted; the same command, without --format, goes on", file=sys.stderr)
        return FAILED


def make(desk: StickDesk, args: argparse.Namespace) -> int:
    """Do ``stick make`` at a desk."""
    bundles = [_named(word) for word in args.bundles]
    stickplan.demand_names([name for name, _ in bundles])
    if not bundles and not args.format:
        raise UsageError("there is nothing to do", hint="name bundles, or --format")
    if args.format and not args.yes:
        return _show_losses(desk, args)
    demand_roots(desk.desk, DeviceGuess(roots=args.roots))
    if args.format:
        stickmaker.format_stick(desk, args.device, args.format, args.label)
    written: tuple[Written, ...] = ()
    if bundles:
        written = stickmaker.make_stick(desk, args.device, bundles, roots=args.roots)
    print(_written_json(written, args.format) if args.json else _written_text(written, args))
    return OK


def _named(word: str) -> tuple[str, Path]:
    """Read ``NAME=BUNDLE`` or ``BUNDLE``; a path may have a '=' after its first '/'."""
    name, equals, place = word.partition("=")
    if equals and "/" not in name:
        return name, Path(place)
    return Path(word).resolve().name, Path(word)


def _show_losses(desk: StickDesk, args: argparse.Namespace) -> int:
    lost = stickplan.losses(stickmaker.demand_formattable(desk, args.device))
    if args.json:
        print(json.dumps({"formatted": None, "would_lose": list(lost), "written": []}))
    else:
        print(f"Formatting as {args.format} erases all of this:", *lost, sep="\n")
        print("Nothing was touched. With --yes it is done.")
    return STOPPED


def _written_text(written: Sequence[Written], args: argparse.Namespace) -> str:
    lines = [f"{args.device}: formatted as {args.format}."] if args.format else []
    for one in written:
        lines.append(
            f"{STICK_DIRECTORY}/{one.name}: {', '.join(one.targets)}; {one.files} files, "
            f"{_mib(one.size_bytes)} MiB, read back whole; {_mib(one.written_bytes)} MiB were new; "
            f"accepted until {write_date(one.ends)}."
        )
        lines += [f"warning: {warning}" for warning in one.warnings]
    return "\n".join([*lines, PULL_IT])


def _written_json(written: Sequence[Written], fs_type: str | None) -> str:
    return json.dumps(
        {
            "formatted": fs_type,
            "written": [
                {
                    "name": one.name,
                    "path": f"{STICK_DIRECTORY}/{one.name}",
                    "targets": list(one.targets),
                    "expires": write_date(one.ends),
                    "files": one.files,
                    "size_bytes": one.size_bytes,
                    "written_bytes": one.written_bytes,
                    "removed_files": one.removed,
                    "warnings": list(one.warnings),
                }
                for one in written
            ],
            "may_be_pulled_out": True,
        }
    )


def _mib(size: int) -> str:
    return f"{size / MIB:.1f}"


# --- doctor ----------------------------------------------------------------------------


def _doctor(args: argparse.Namespace) -> int:
    with _desk() as desk:
        return doctor(desk, args)


def doctor(desk: StickDesk, args: argparse.Namespace) -> int:
    """Do ``stick doctor`` at a desk."""
    profile = _profile(args)
    demand_roots(desk.desk, profile.guess)
    findings = stickdoctor.visit(
        desk,
        args.device,
        profile,
        deep=args.deep,
        fix=args.fix,
        probe=args.probe_capacity,
    )
    print(findings_json(findings) if args.json else findings_text(findings))
    return STOPPED if worst(findings) is Level.FAIL else OK


def _profile(args: argparse.Namespace) -> Profile:
    if args.profile and not args.profile.exists():
        raise UsageError(f"'{args.profile}' does not exist", hint="correct --profile")
    settings = configuration([args.profile]).settings if args.profile else Settings()
    known, filesystems = device_of(settings)
    guess = known if args.profile else DeviceGuess()
    return Profile(
        DeviceGuess(
            args.roots or guess.roots,
            BundleType(args.type) if args.type else guess.bundle_type,
            tuple(args.tag) or guess.tags,
            args.hardware_id or guess.hardware_id,
        ),
        tuple(filesystems),
    )


@contextmanager
def _desk() -> Iterator[StickDesk]:
    bar = progress.progress()
    try:
        yield stick_desk(bar or no_progress)
    finally:
        if bar:
            bar.close()
