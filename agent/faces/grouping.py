"""Groups of commands and the commands in them, all explained in the same way."""

import argparse
from typing import Any


def group(
    subparsers: "argparse._SubParsersAction[Any]", name: str, summary: str, epilog: str = ""
) -> "argparse._SubParsersAction[Any]":
    """Add a command that has commands below it; return where they are added."""
    parser = command(subparsers, name, summary)
    parser.epilog = epilog or None
    below: argparse._SubParsersAction[Any] = parser.add_subparsers(
        metavar="COMMAND", required=True, parser_class=type(parser)
    )
    return below


def command(
    group: "argparse._SubParsersAction[Any]", name: str, summary: str
) -> argparse.ArgumentParser:
    """Add a command whose help keeps its line ends."""
    parser: argparse.ArgumentParser = group.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser
