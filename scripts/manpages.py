"""Make the manual pages of the two programs from their own tables.

In: the commands, options and exit statuses as the programs know them. Out: troff (man(7)).
"""

import argparse
from collections.abc import Iterable, Iterator

from agent.core.outcome import CheckExit, ExitCode, InstallExit, RunExit
from agent.faces import cli

SECTION = "1"
SUMMARIES = {
    "usb-update": "offline updates from a USB stick, and the bundles for them",
    "aklite-offline": "update this device from a bundle, offline",
}
EXITS: tuple[tuple[str, type[ExitCode]], ...] = (
    ("check", CheckExit),
    ("install", InstallExit),
    ("run", RunExit),
)
FILES = (
    ("/usr/lib/sota/conf.d, /var/sota/sota.toml, /etc/sota/conf.d", "the configuration, in order"),
    ("/usr/lib/sota/tuf", "root metadata the device is provisioned with"),
    ("/var/sota/sql.db", "what the device trusts and runs, shared with aktualizr-lite"),
    ("/var/sota/usb-update", "attempts, quarantine and results that wait for a stick"),
    ("/run/usb-update/status.json", "what the agent is doing"),
)


def page(program: str) -> str:
    """Return the manual page of ``program``."""
    others = cli.COMMANDS if program == "usb-update" else ()
    return "\n".join(_lines(program, others)) + "\n"


def _lines(program: str, others: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    yield f'.TH "{_text(program.upper())}" "{SECTION}" "" "usb-update-agent"'
    yield from (".SH NAME", f"{_text(program)} \\- {_text(SUMMARIES[program])}")
    yield from (".SH SYNOPSIS", f".B {_text(program)}", ".I COMMAND", "[options]")
    yield ".SH COMMANDS"
    for name, summary, _ in cli.FOUR:
        yield from _item(f"{name}", f"{_capital(summary)}.")
    for name, summary, _ in others:
        yield from _item(name, f"{_capital(summary)}.")
    yield ".PP"
    yield _text(f"'{program} COMMAND --help' tells the options of each.")
    yield ".SH OPTIONS"
    yield _text("Of check, install, run and current:")
    yield from _options()
    for command, exits in EXITS:
        yield f".SH EXIT STATUS OF {command.upper()}"
        for code in list(exits):
            yield from _item(str(int(code)), code.meaning)
    yield ".SH FILES"
    for place, what in FILES:
        yield from _item(place, f"{_capital(what)}.")
    yield from (".SH SEE ALSO", "/usr/share/doc/usb-update\\-agent, ostree(1), docker(1)")


def _options() -> Iterator[str]:
    """Yield the options of ``install``, which has all of them."""
    parser = argparse.ArgumentParser()
    cli.add_device_options(parser)
    cli.add_source_options(parser, force=True)
    for action in parser._actions:  # noqa: SLF001  argparse has no other way to its options
        term = ", ".join(action.option_strings)
        value = f" {action.metavar}" if action.metavar else ""
        yield from _item(f"{term}{value}", f"{_capital(action.help or '')}.")


def _item(term: str, text: str) -> tuple[str, str, str]:
    return ".TP", f".B {_text(term)}", _text(text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _text(text: str) -> str:
    """Escape what troff would take for its own."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
