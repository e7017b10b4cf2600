"""``aklite-offline`` and ``usb-update``: arguments in, an exit status out.

stdout carries the answer, stderr the log, the exit status the truth. Commands beside the
four of ``aklite-offline`` live in modules of their own, imported only when their name is
typed, so that ``--help`` and an idle ``run`` stay light.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from agent.core.errors import AgentError
from agent.core.outcome import CheckExit, ExitCode, InstallExit, RunExit
from agent.faces.text import exit_table, spoken
from agent.log import get_logger

STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
PATH_SHOWN = 200  # characters
EXIT_FAILED = 1  # also for usage errors, where argparse would answer 2: the reference's number

COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("config", "print the effective settings and the file each came from", "device"),
    ("plan", "explain every bundle and Target found, and what refused it", "device"),
    ("forgive", "release Targets that rolled back from quarantine", "device"),
    ("watch", "wait for sticks and attend to them (the service)", "watch"),
    ("finish", "'run' and the reboot it may need (the post-boot service)", "watch"),
    ("confirm", "confirm the update that waits for it", "watch"),
    ("status", "show what the agent is doing", "status"),
    ("history", "list the attempts of this device", "status"),
    ("report", "merge the results of sticks into one table", "status"),
    ("service", "install, remove or examine the service", "service"),
    ("factory", "keep Targets, waves and keys in a directory", "factory"),
    ("keys", "make, list, rotate and take away signing keys", "authoring"),
    ("bundle", "create, sign, show, verify, compare or pack bundles", "authoring"),
    ("stick", "write bundles to a stick, or examine one", "stick"),
    ("demo", "walk through a whole update in a temporary directory", "demo"),
)

FOUR: tuple[tuple[str, str, type[ExitCode] | None], ...] = (
    ("check", "verify a bundle and say what install would do", CheckExit),
    ("install", "install from a bundle", InstallExit),
    ("run", "finish an installation, usually after a reboot", RunExit),
    ("current", "print the Target that runs", None),
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose usage errors exit 1 with the usage line."""

    def error(self, message: str) -> NoReturn:
        """Print the usage line and what is wrong with the arguments."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_FAILED, f"{self.prog}: {message}\n")


def aklite_offline(argv: Sequence[str] | None = None) -> int:
    """Run ``aklite-offline``: check, install, run, current."""
    return _main("aklite-offline", "Update this device from a bundle, offline.", argv, ())


def usb_update(argv: Sequence[str] | None = None) -> int:
    """Run ``usb-update``: everything."""
    text = "Offline updates from a USB stick, and the bundles for them."
    return _main("usb-update", text, argv, COMMANDS)


def _main(
    prog: str,
    text: str,
    argv: Sequence[str] | None,
    others: tuple[tuple[str, str, str], ...],
) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        parser = _parser(prog, text, arguments, others)
        args = parser.parse_args(arguments)
        if args.func is None:
            parser.print_help(sys.stderr)
            return EXIT_FAILED
        return _run(args)
    except KeyboardInterrupt:  # loading what a command needs takes a moment, too
        print("interrupted; type the same command again to go on", file=sys.stderr)
        return EXIT_FAILED


def _run(args: argparse.Namespace) -> int:
    """Call the command. Whatever is wrong, a person reads a sentence, not a traceback."""
    try:
        with _stoppable():
            return int(args.func(args))
    except AgentError as e:
        said = f"{e.message}" + (f"\n  {e.hint}" if e.hint else "")
        print(spoken(said, args.program), file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:
        return EXIT_FAILED
    except OSError as e:
        print(f"{_file(e)}: {e.strerror or e}", file=sys.stderr)
        return EXIT_FAILED
    except Exception as e:
        log_bug(e)
        print(f"internal error: {type(e).__name__}: {e}; please report it", file=sys.stderr)
        return EXIT_FAILED


def _file(error: OSError) -> str:
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return f"'{name[:PATH_SHOWN]}' cannot be used" if name else "the system refused something"


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let ``kill`` and a broken connection end a command as Ctrl-C does.

    The programs it runs have sessions of their own: ended at once, it would leave them
    working behind the back of the next command.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:  # not under nohup
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def survive(walk: Callable[[], None]) -> None:
    """Call ``walk``; a bug in it is logged and does not end a daemon."""
    try:
        walk()
    except Exception as e:
        log_bug(e)


def log_bug(error: Exception) -> None:
    """Leave the traceback in the log."""
    get_logger().error("bug.met", exc_info=error)


def _parser(
    prog: str, text: str, arguments: list[str], others: tuple[tuple[str, str, str], ...]
) -> Parser:
    parser = Parser(prog=prog, description=text)
    parser.set_defaults(func=None, program=prog)
    subparsers = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    _add_four(subparsers)
    typed = next((word for word in arguments if not word.startswith("-")), "")
    loaded = next((module for name, _, module in others if name == typed), "")
    for name, summary, module in others:
        if module != loaded:
            subparsers.add_parser(name, help=summary)
    if loaded:
        importlib.import_module(f"agent.faces.{loaded}").add_commands(subparsers)
    return parser


def _add_four(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    for name, summary, exits in FOUR:
        parser = subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"exit statuses:\n{exit_table(exits)}" if exits else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_device_options(parser)
        if name in ("check", "install"):
            add_source_options(parser, force=name == "install")
        parser.set_defaults(func=_run_four, command=name)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that looks at a device."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="PATH",
        action="append",
        type=Path,
        default=[],
        help="TOML file, or directory of them; repeatable; instead of the default places",
    )
    parser.add_argument(
        "--log-level",
        type=int,
        choices=range(6),
        metavar="0..5",
        help="0 trace, 1 debug, 2 info, 3 warning, 4 error, 5 fatal",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_source_options(parser: argparse.ArgumentParser, *, force: bool) -> None:
    """Add the options of the commands that read a bundle."""
    parser.add_argument(
        "-s",
        "--src-dir",
        metavar="DIR",
        type=Path,
        required=True,
        help="the bundle: its directory or its .usbu file",
    )
    parser.add_argument(
        "-t", "--target", metavar="NAME", default="", help="only this Target of the bundle"
    )
    if force:
        parser.add_argument(
            "-f", "--force", action="store_true", help="allow a version lower than the current"
        )


def _run_four(args: argparse.Namespace) -> int:
    module = importlib.import_module("agent.faces.device")
    return int(module.FOUR[args.command](args))
