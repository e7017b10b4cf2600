"""``usb-update service``: put the service into a system, take it out, examine it."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from agent.core.config import Settings
from agent.core.errors import UsageError
from agent.core.finding import Level, worst
from agent.faces.cli import Parser, add_device_options
from agent.faces.findings import findings_json, findings_text
from agent.wiring import configuration, resume_services, service_findings, service_installation

EXIT_OK, EXIT_FOUND = 0, 1


def add_commands(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Register ``service`` and its verbs."""
    service = subparsers.add_parser("service", help="install, remove or examine the service")
    verbs = service.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    for name, summary, func in (
        ("install", "put the udev rule and the units in place, and start watching", _install),
        ("uninstall", "remove them again", _uninstall),
        ("doctor", "say what is missing on this device, and how to mend it", _doctor),
    ):
        verb = verbs.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        add_device_options(verb)
        _add_root(verb)
        verb.set_defaults(func=func)
    resume = verbs.add_parser("resume", help="start again what an attempt had stopped")
    add_device_options(resume)
    resume.set_defaults(func=_resume)


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=Path,
        default=Path("/"),
        help="directory of the system; an image that is being built, usually",
    )


def _settings(args: argparse.Namespace) -> Settings:
    """Return the settings of the system in question; an image has its own."""
    if not args.root.is_dir():
        raise UsageError(f"'{args.root}' is not a directory", hint="correct --root")
    return configuration(args.config, args.root).settings


def _install(args: argparse.Namespace) -> int:
    installation = service_installation(_settings(args), args.root)
    changed = installation.install()
    installation.start()
    _tell(args, "installed", changed, "Everything was in place already.")
    return EXIT_OK


def _uninstall(args: argparse.Namespace) -> int:
    installation = service_installation(_settings(args), args.root)
    removed = installation.uninstall()
    _tell(args, "removed", removed, "There was nothing to remove.")
    if installation.packaged and not args.json:
        print("The files of the package stay; remove the package to remove them.")
    return EXIT_OK


def _tell(args: argparse.Namespace, what: str, places: Sequence[Path], nothing: str) -> None:
    if args.json:
        print(json.dumps({what: [str(place) for place in places]}))
        return
    print("\n".join(f"{what} {place}" for place in places) or nothing)


def _doctor(args: argparse.Namespace) -> int:
    findings = service_findings(_settings(args), args.root)
    print(findings_json(findings) if args.json else findings_text(findings))
    return EXIT_FOUND if worst(findings) is Level.FAIL else EXIT_OK


def _resume(args: argparse.Namespace) -> int:
    resume_services(configuration(args.config).settings)
    return EXIT_OK
