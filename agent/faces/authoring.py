"""``usb-update keys`` and ``usb-update bundle``: arguments in, words and an exit status out."""

import argparse
import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent import wiring
from agent.core.authoring import write_date
from agent.core.bundletype import BundleType
from agent.core.errors import UsageError
from agent.core.keys import ED25519, RSA
from agent.core.outcome import CheckExit
from agent.faces import factory, fetching, gitoptions, progress, text
from agent.faces.difference import difference_json, difference_text
from agent.faces.grouping import command as _command
from agent.faces.grouping import group as _group
from agent.services import author
from agent.services.author import BundleInfo, BundleSpec, DeviceGuess, Verdict
from agent.services.desk import Desk
from agent.services.difference import compare_bundles
from agent.services.sources import NO_GIT
from agent.services.station import no_progress

OK = 0
CREATE_EXAMPLES = """\
examples:
  usb-update bundle create rpi-lmp-42 stick/bundle --factory-dir factory --tag main
  usb-update bundle create rpi-lmp-42 stick/bundle --factory-dir factory --tag main --prod
  usb-update bundle create rpi-lmp-42 stick/bundle --factory-dir factory --wave spring
  usb-update bundle create rpi-lmp-42 stick/bundle --factory acme --token-file token --tag main
  usb-update bundle create rpi-lmp-42 stick/bundle --keys keys --tag main --tuf-only
  usb-update bundle create rpi-lmp-42 stick/bundle --keys keys --tag main \\
      --hardware-id rpi --ostree-repo repo --ref main --app containers/shop --image docker:"""
SIGN_EXAMPLES = """\
examples:
  usb-update bundle sign stick/bundle --keys offline-targets.tgz
  usb-update bundle sign update-42.usbu --keys offline-targets.tgz"""
SHOW_EXAMPLES = """\
examples:
  usb-update bundle show stick/bundle
  usb-update bundle show update-42.usbu --json"""
VERIFY_EXAMPLES = """\
examples:
  usb-update bundle verify stick/bundle --roots keys/roots --type ci --tag main --deep"""
DIFF_EXAMPLES = """\
examples:
  usb-update bundle diff bundles/41 bundles/42
  usb-update bundle diff update-41.usbu update-42.usbu --all"""
PACK_EXAMPLES = """\
examples:
  usb-update bundle pack stick/bundle update-42.usbu --keys keys"""
UNPACK_EXAMPLES = """\
examples:
  usb-update bundle unpack update-42.usbu stick/bundle"""
WORDS_OF_TYPE = {BundleType.CI: "CI", BundleType.PROD: "production"}


def add_commands(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the command groups ``keys`` and ``bundle``; each command sets ``func``."""
    _add_keys(subparsers)
    _add_bundle(subparsers)


# --- arguments -------------------------------------------------------------------------


def _add_keys(subparsers: "argparse._SubParsersAction[Any]") -> None:
    group = _group(subparsers, "keys", "make, list, rotate and take away signing keys")
    init = _command(group, "init", "make a factory's keys and its CI and production root chains")
    init.add_argument("directory", metavar="DIR", type=Path, help="a new directory")
    init.add_argument(
        "--type", choices=("ed25519", "rsa"), default="ed25519", help="of all keys (ed25519)"
    )
    init.add_argument(
        "--expires-in-days",
        metavar="N",
        type=int,
        default=author.DEFAULT_ROOT_DAYS,
        help=f"how long the roots last ({author.DEFAULT_ROOT_DAYS})",
    )
    init.set_defaults(func=_keys_init)
    factory.add_key_commands(group)


def _add_bundle(subparsers: "argparse._SubParsersAction[Any]") -> None:
    group = _group(subparsers, "bundle", "create, sign, show, verify, compare or pack bundles")
    _add_create(group)
    sign = _command(group, "sign", "add an offline key's signature")
    sign.add_argument("bundle", metavar="BUNDLE", type=Path, help="its directory or .usbu file")
    sign.add_argument(
        "-k", "--keys", metavar="TGZ", type=Path, required=True, help="archive with one targets key"
    )
    sign.epilog = SIGN_EXAMPLES
    sign.set_defaults(func=_bundle_sign)
    show = _command(group, "show", "print what a bundle holds and who signed it")
    show.add_argument("bundle", metavar="BUNDLE", type=Path, help="its directory or .usbu file")
    show.add_argument("--json", action="store_true", help="print one JSON object")
    show.epilog = SHOW_EXAMPLES
    show.set_defaults(func=_bundle_show)
    _add_verify(group)
    _add_diff(group)
    _add_packs(group)


def _add_create(group: "argparse._SubParsersAction[Any]") -> None:
    create = _command(group, "create", "make a bundle, add a Target to one, or renew one")
    add = create.add_argument
    add("target", metavar="TARGET_NAME", help="e.g. raspberrypi4-64-lmp-42")
    add("destination", metavar="DST", type=Path, help="the bundle's directory")
    create.epilog = CREATE_EXAMPLES
    source = create.add_mutually_exclusive_group(required=True)
    source.add_argument("--keys", metavar="DIR", type=Path, help="made by 'keys init'")
    source.add_argument("--factory-dir", metavar="DIR", type=Path, help="made by 'factory init'")
    source.add_argument("--factory", metavar="NAME", help="fetch it from this factory's server")
    channel = create.add_mutually_exclusive_group(required=True)
    channel.add_argument("--tag", metavar="TAG", default="", help="release channel of the devices")
    channel.add_argument("--wave", metavar="NAME", default="", help="an active wave of the factory")
    kind = create.add_mutually_exclusive_group()
    kind.add_argument("--type", choices=("ci", "prod"), default="ci", help="of the devices (ci)")
    kind.add_argument("--prod", action="store_const", const="prod", dest="type", help="--type prod")
    add("--hardware-id", metavar="ID", default="", help="of the devices")
    add("--version", metavar="N", type=int, help="default: the number the name ends in")
    add("--ostree-repo", "--ostree-repo-source", metavar="REPO", type=Path, help="local repository")
    what = create.add_mutually_exclusive_group()
    what.add_argument("--commit", metavar="C", dest="ref", default="", help="OSTree commit")
    what.add_argument("--ref", metavar="R", dest="ref", help="OSTree ref")
    add("--app", metavar="DIR", type=Path, action="append", default=[], help="an App; repeatable")
    gitoptions.add_options(create)
    add(
        "--image",
        metavar="SOURCE",
        action="append",
        default=[],
        help="where images are: 'docker:', 'registry:', an archive of 'docker save', an OCI "
        "layout; NAME=SOURCE names an image that has no name there; repeatable",
    )
    add("--arch", metavar="ARCH", default="", help="platform, where an image has several")
    add(
        "--registry-prefix",
        metavar="HOST/FACTORY",
        default=author.DEFAULT_PREFIX,
        help=f"of App URIs ({author.DEFAULT_PREFIX})",
    )
    add("--no-apps", action="store_true", help="rootfs only, whatever else says which Apps")
    add(
        "--expires-in-days",
        "-e",
        metavar="N",
        type=int,
        default=author.DEFAULT_DAYS,
        help=f"how long the bundle lasts ({author.DEFAULT_DAYS})",
    )
    add("--tuf-only", "-m", action="store_true", help="renew the metadata of a bundle, no more")
    add("--allow-multiple-targets", action="store_true", help="DST may hold a bundle already")
    add(
        "--with-initial-roots",
        action="store_true",
        help="carry roots 1 and 2, for devices whose image has none",
    )
    fetching.add_options(create)
    create.set_defaults(func=_bundle_create)


def _add_verify(group: "argparse._SubParsersAction[Any]") -> None:
    verify = _command(group, "verify", "answer as a device would")
    verify.epilog = (
        f"{VERIFY_EXAMPLES}\n\nexit statuses, as of 'check', but 0 when accepted:\n"
        f"{text.exit_table(CheckExit)}"
    )
    add = verify.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="its directory or .usbu file")
    add("--roots", metavar="DIR", type=Path, help="the device's roots: holds ci/ and prod/")
    add("--tag", metavar="TAG", action="append", default=[], help="of the device; repeatable")
    add("--hardware-id", metavar="ID", default="", help="of the device")
    add("--type", choices=("ci", "prod"), help="of the device; default: not registered")
    add("--deep", action="store_true", help="read all content, too")
    add("--json", action="store_true", help="print one JSON object")
    verify.set_defaults(func=_bundle_verify)


def _add_diff(group: "argparse._SubParsersAction[Any]") -> None:
    diff = _command(group, "diff", "say what changes from one bundle to another")
    add = diff.add_argument
    add("before", metavar="A", type=Path, help="the bundle a device has: directory or .usbu file")
    add("after", metavar="B", type=Path, help="the bundle it gets: directory or .usbu file")
    add("--all", action="store_true", help="name every path that changes")
    add("--json", action="store_true", help="print one JSON object")
    diff.epilog = DIFF_EXAMPLES
    diff.set_defaults(func=_bundle_diff)


def _add_packs(group: "argparse._SubParsersAction[Any]") -> None:
    packed = _command(group, "pack", "make one sealed file of a bundle")
    packed.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's directory")
    packed.add_argument("file", metavar="FILE.usbu", type=Path, help="a new file")
    packed.add_argument(
        "--keys", metavar="DIR", type=Path, required=True, help="those that made the bundle"
    )
    packed.epilog = PACK_EXAMPLES
    packed.set_defaults(func=_packing("pack"))
    unpacked = _command(group, "unpack", "make a bundle's directory of a pack")
    unpacked.add_argument("file", metavar="FILE.usbu", type=Path, help="made by 'bundle pack'")
    unpacked.add_argument("destination", metavar="DST", type=Path, help="a new directory")
    unpacked.epilog = UNPACK_EXAMPLES
    unpacked.set_defaults(func=_packing("unpack"))


def _packing(command: str) -> Callable[[argparse.Namespace], int]:
    """Return a command of `faces.packing`, which is imported when it is called."""

    def run(args: argparse.Namespace) -> int:
        module = importlib.import_module("agent.faces.packing")
        return int(module.COMMANDS[command](args))

    return run


# --- commands --------------------------------------------------------------------------


def _keys_init(args: argparse.Namespace) -> int:
    with _desk() as desk:
        author.make_keys(
            desk,
            args.directory,
            keytype=ED25519 if args.type == "ed25519" else RSA,
            expires_in_days=args.expires_in_days,
        )
    print(_keys_text(args.directory))
    return OK


def _bundle_create(args: argparse.Namespace) -> int:
    print(info_text(_created(args)))
    return OK


def _created(args: argparse.Namespace) -> BundleInfo:
    if not args.factory:
        fetching.demand_no_server(args)
    if args.factory_dir:
        return factory.bundle_create(args)
    with _desk() as desk:
        if args.factory:
            return fetching.create(desk, args)
        return author.create_bundle(desk, _spec(args))


def _spec(args: argparse.Namespace) -> BundleSpec:
    if args.wave:
        raise UsageError(
            "--wave names a wave of a factory",
            hint="name the factory with --factory-dir or --factory; --keys goes with --tag",
        )
    return BundleSpec(
        target=args.target,
        destination=args.destination,
        keys=args.keys,
        tag=args.tag,
        hardware_id=args.hardware_id,
        bundle_type=BundleType(args.type),
        version=args.version,
        ostree_repo=args.ostree_repo,
        ref=args.ref or "",
        apps=() if args.no_apps else tuple(args.app),
        images=tuple(args.image),
        registry_prefix=args.registry_prefix,
        arch=args.arch,
        expires_in_days=args.expires_in_days,
        tuf_only=args.tuf_only,
        allow_multiple_targets=args.allow_multiple_targets,
        with_initial_roots=args.with_initial_roots,
        git=NO_GIT if args.no_apps else gitoptions.spec(args),
    )


def _bundle_sign(args: argparse.Namespace) -> int:
    if args.bundle.is_file():
        return _packing("sign")(args)
    with _desk() as desk:
        info = author.sign_bundle(desk, args.bundle, args.keys)
    print(info_text(info))
    return OK


def _bundle_show(args: argparse.Namespace) -> int:
    if args.bundle.is_file():
        return _packing("show")(args)
    with _desk() as desk:
        info = author.show_bundle(desk, args.bundle)
    print(json.dumps(info_json(info)) if args.json else info_text(info))
    return OK


def _bundle_verify(args: argparse.Namespace) -> int:
    device = DeviceGuess(
        args.roots,
        BundleType(args.type) if args.type else None,
        tuple(args.tag),
        args.hardware_id,
    )
    with _desk() as desk:
        author.demand_roots(desk, device)
        verdict = author.check_bundle(desk, args.bundle, device, deep=args.deep)
    print(json.dumps(verdict_json(verdict)) if args.json else verdict_text(verdict))
    return OK if verdict.accepted else int(verdict.outcome.exit)


def _bundle_diff(args: argparse.Namespace) -> int:
    with _desk() as desk:
        found = compare_bundles(desk, args.before, args.after)
    print(
        json.dumps(difference_json(found)) if args.json else difference_text(found, every=args.all)
    )
    return OK


@contextmanager
def _desk() -> Iterator[Desk]:
    bar = progress.progress()
    try:
        yield wiring.author_desk(bar or no_progress, text.warn)
    finally:
        if bar:
            bar.close()


# --- words -----------------------------------------------------------------------------


def _keys_text(directory: Path) -> str:
    return f"""\
Made in '{directory}':
  keys/online-targets.tgz, online-snapshot.tgz, online-timestamp.tgz
      'bundle create' signs with these; keep them on the machine that makes bundles.
  keys/offline-targets.tgz
      'bundle sign' needs it for production bundles. Move it to a medium that is kept
      offline, and keep a copy.
  keys/offline-root.tgz, first-root.tgz
      Needed only to issue new roots. Move them offline, apart from the targets key.
  roots/ci/, roots/prod/
      Public. Both go into the device's image, as /usr/lib/sota/tuf/{{ci,prod}}/.
  state.json
      The versions issued so far. Back it up: devices refuse versions that go back."""


def info_text(info: BundleInfo) -> str:
    """Say what a bundle holds, in the words and order of fioctl's ``show``."""
    lines = [
        "Bundle Targets info:",
        f"\tType:\t\t{info.bundle_type.value}",
        f"\tTag:\t\t{info.tag}",
        f"\tExpires:\t{write_date(info.ends)}",
        "\tTargets:",
        *(f"\t\t\t{name}" for name in info.listed),
        *_signature_lines(info),
    ]
    return "\n".join(lines)


def _signature_lines(info: BundleInfo) -> list[str]:
    signers = info.signers
    if signers is None:
        return ["\tSignatures:\tnot judged: the bundle carries no root from version 2 on"]
    lines = ["\tSignatures:", *(f"\t\t\t- {keyid}" for keyid in signers.valid)]
    lines += [f"\t\t\t- {keyid} (bad: devices refuse the bundle)" for keyid in signers.refused]
    lines += ["\tAllowed keys:", *(f"\t\t\t- {keyid}" for keyid in signers.allowed)]
    lines.append(f"\tThreshold:\t{signers.threshold}")
    missing = max(signers.missing, info.targets_missing)
    if missing:
        noun = "signature" if missing == 1 else "signatures"
        lines.append(f"\tMissing:\t{missing} ({noun}; add with 'usb-update bundle sign')")
    return lines


def info_json(info: BundleInfo) -> dict[str, Any]:
    """Say what a bundle holds, for programs."""
    signers = info.signers
    return {
        "path": str(info.path),
        "type": info.bundle_type.value,
        "tag": info.tag,
        "expires": write_date(info.ends),
        "expiries": {name: write_date(when) for name, when in info.expiries.items()},
        "targets": [
            {"name": t.name, "version": t.version, "commit": t.commit, "apps": len(t.apps)}
            for t in info.targets
        ],
        "listed": list(info.listed),
        "root_version": info.root_version,
        "signatures": list(signers.valid) if signers else [],
        "bad_signatures": list(signers.refused) if signers else [],
        "allowed_keys": list(signers.allowed) if signers else [],
        "threshold": signers.threshold if signers else None,
        "missing": max(signers.missing, info.targets_missing) if signers else None,
    }


def verdict_text(verdict: Verdict) -> str:
    """Say what a device would answer."""
    outcome = verdict.outcome
    if verdict.accepted:
        lines = [f"{outcome.target}: a device would accept this bundle."]
    else:
        lines = [
            f"A device would refuse this bundle with {int(outcome.exit)}: {outcome.exit.meaning}"
        ]
        lines += [f"  {words}" for words in (outcome.message, outcome.hint) if words]
    lines += [f"damaged: {problem}" for problem in verdict.damaged]
    lines += [f"warning: {warning}" for warning in verdict.warnings]
    return "\n".join(lines)


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Say what a device would answer, for programs."""
    outcome = verdict.outcome
    return {
        "accepted": verdict.accepted,
        "exit": 0 if verdict.accepted else int(outcome.exit),
        "target": outcome.target,
        "version": outcome.version,
        "reason": outcome.reason,
        "message": outcome.message,
        "hint": outcome.hint,
        "damaged": list(verdict.damaged),
        "warnings": list(verdict.warnings),
    }
