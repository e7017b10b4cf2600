"""``usb-update bundle pack`` and ``unpack``, and ``sign`` and ``show`` of a pack."""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agent import wiring
from agent.faces import progress
from agent.faces.authoring import OK, info_json, info_text
from agent.services import pack
from agent.services.desk import Desk
from agent.services.pack import PackFiles, PackInfo
from agent.services.station import no_progress


@contextmanager
def _bench() -> Iterator[tuple[Desk, PackFiles]]:
    bar = progress.progress()
    told = bar or no_progress
    try:
        yield wiring.author_desk(told), wiring.author_packs(told)
    finally:
        if bar:
            bar.close()


def _pack(args: argparse.Namespace) -> int:
    with _bench() as (desk, packs):
        info = pack.pack_bundle(desk, packs, args.bundle, args.file, args.keys)
    print(pack_text(info))
    return OK


def _unpack(args: argparse.Namespace) -> int:
    with _bench() as (desk, packs):
        info = pack.unpack_bundle(desk, packs, args.file, args.destination)
    print(info_text(info))
    return OK


def _sign(args: argparse.Namespace) -> int:
    with _bench() as (desk, packs):
        info = pack.sign_pack(desk, packs, args.bundle, args.keys)
    print(pack_text(info))
    return OK


def _show(args: argparse.Namespace) -> int:
    with _bench() as (desk, packs):
        info = pack.show_pack(desk, packs, args.bundle)
    print(json.dumps(pack_json(info)) if args.json else pack_text(info))
    return OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "pack": _pack,
    "unpack": _unpack,
    "sign": _sign,
    "show": _show,
}


def pack_text(info: PackInfo) -> str:
    """Say what a pack holds: its bundle, then its seal."""
    lines = [
        info_text(info.bundle),
        "Pack info:",
        f"\tSize:\t\t{info.size}",
        f"\tRoot hash:\t{info.facts.root_hash.hex()}",
        "\tSealed by:",
        *(f"\t\t\t- {keyid}" for keyid in info.signers),
    ]
    if info.missing:
        noun = "signature" if info.missing == 1 else "signatures"
        lines.append(f"\tMissing:\t{info.missing} ({noun}; add with 'usb-update bundle sign')")
    return "\n".join(lines)


def pack_json(info: PackInfo) -> dict[str, Any]:
    """Say what a pack holds, for programs."""
    return {
        **info_json(info.bundle),
        "pack": {
            "size": info.size,
            "image_size": info.facts.size,
            "root_hash": info.facts.root_hash.hex(),
            "salt": info.facts.salt.hex(),
            "sealed_by": list(info.signers),
            "missing": info.missing,
        },
    }
