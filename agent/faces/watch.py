"""``usb-update watch``, ``finish`` and ``confirm``: the service, and a person's yes to it."""

import argparse

from agent import wiring_watch
from agent.core.outcome import RunExit
from agent.faces.cli import Parser, add_device_options, survive
from agent.faces.text import exit_table, outcome_json, outcome_text
from agent.wiring_watch import configuration


def add_commands(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Register ``watch``, ``finish`` and ``confirm``."""
    watch = subparsers.add_parser("watch", help="wait for sticks and attend to them")
    add_device_options(watch)
    watch.set_defaults(func=_watch)
    finish = subparsers.add_parser(
        "finish",
        help="'run' and the reboot it may need",
        epilog=f"exit statuses:\n{exit_table(RunExit)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_device_options(finish)
    finish.set_defaults(func=_finish)
    confirm = subparsers.add_parser("confirm", help="confirm the update that waits for it")
    confirm.set_defaults(func=_confirm)


def _watch(args: argparse.Namespace) -> int:
    found = configuration(args.config)
    with wiring_watch.opened_watch(found, survive=survive, log_level=args.log_level) as daemon:
        daemon.run()
    return 0


def _finish(args: argparse.Namespace) -> int:
    from agent.wiring_house import finish  # noqa: PLC0415  heavy; `watch` waits without it

    outcome = finish(configuration(args.config), log_level=args.log_level)
    print(outcome_json(outcome, "run") if args.json else outcome_text(outcome))
    return int(outcome.exit)


def _confirm(_args: argparse.Namespace) -> int:
    if wiring_watch.say_yes():
        print("Confirmed: the update starts now.")
        return 0
    print("Nothing waits for a confirmation.")
    return 1
