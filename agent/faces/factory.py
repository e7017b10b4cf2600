"""``usb-update factory``, and what ``keys`` and ``bundle create`` do with a factory."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from agent import wiring
from agent.core import factory as books
from agent.core.authoring import AuthoringError, write_date
from agent.core.factory import Wave, WaveState
from agent.core.keys import ED25519, RSA
from agent.core.target import Target
from agent.core.tuf import Role
from agent.faces import gitoptions, progress, text
from agent.faces.grouping import command, group
from agent.services import author, factory
from agent.services.author import BundleInfo, BundleSpec
from agent.services.factory import FactoryBundle, FactoryDesk, FactoryInfo, KeyPlace
from agent.services.station import no_progress

OK = 0
Subparsers: TypeAlias = "argparse._SubParsersAction[Any]"  # noqa: SLF001  has no public name

EXAMPLE = """\
example:
  usb-update factory init factory
  cd factory
  usb-update factory target add rpi-lmp-42 --tag main --hardware-id rpi \\
      --ostree-repo ../build/repo --ref main --app ../containers/shop --image docker:
  usb-update bundle create rpi-lmp-42 /media/stick/bundle --factory-dir . --tag main
  usb-update factory wave init spring rpi-lmp-42 --expires-days 90
  usb-update factory wave complete spring"""


def add_commands(subparsers: Subparsers) -> None:
    """Add the command group ``factory``; each command sets ``func``."""
    top = group(subparsers, "factory", "keep Targets, waves and keys in a directory", EXAMPLE)
    _add_init(top)
    target = group(top, "target", "add Targets")
    _add_target(target)
    tag = command(top, "tag", "give a CI Target other tags; none takes it out of every channel")
    tag.add_argument("target", metavar="TARGET_NAME", help="a CI Target of the factory")
    tag.add_argument("tags", metavar="TAG", nargs="*", help="release channels")
    _add_directory(tag)
    tag.set_defaults(func=_tag)
    _add_waves(group(top, "wave", "bring Targets into production"))
    show = command(top, "show", "print Targets, production, waves and roots")
    _add_directory(show)
    show.add_argument("--json", action="store_true", help="print one JSON object")
    show.set_defaults(func=_show)


def add_key_commands(keys: Subparsers) -> None:
    """Add what is done with a factory's keys to the command group ``keys``."""
    rotate = command(keys, "rotate", "put a new key in the place of an old one")
    rotate.add_argument(
        "--role",
        choices=("root", "targets", "snapshot", "timestamp"),
        required=True,
        help="whose key; of targets, the offline one",
    )
    rotate.add_argument("--type", choices=("ed25519", "rsa"), default="ed25519", help="(ed25519)")
    rotate.add_argument(
        "--expires-in-days",
        metavar="N",
        type=int,
        default=author.DEFAULT_ROOT_DAYS,
        help=f"how long the roots last, for --role root ({author.DEFAULT_ROOT_DAYS})",
    )
    _add_directory(rotate)
    _add_keys(rotate)
    rotate.set_defaults(func=_rotate)
    offline = command(keys, "offline", "move the offline keys to another directory")
    offline.add_argument("destination", metavar="DST", type=Path, help="e.g. on a medium to keep")
    _add_directory(offline)
    offline.set_defaults(func=_offline)
    listing = command(keys, "list", "print every key, what it is for, and where it is")
    _add_directory(listing)
    _add_keys(listing)
    listing.set_defaults(func=_list)


# --- arguments -------------------------------------------------------------------------


def _add_init(top: Subparsers) -> None:
    init = command(top, "init", "make a factory: keys, root chains, a git repository for its books")
    add = init.add_argument
    add("directory", metavar="DIR", type=Path, help="a new directory")
    add("--type", choices=("ed25519", "rsa"), default="ed25519", help="of all keys (ed25519)")
    add(
        "--expires-in-days",
        metavar="N",
        type=int,
        default=author.DEFAULT_ROOT_DAYS,
        help=f"how long the roots last ({author.DEFAULT_ROOT_DAYS})",
    )
    add(
        "--registry-prefix",
        metavar="HOST/FACTORY",
        default=author.DEFAULT_PREFIX,
        help=f"of App URIs ({author.DEFAULT_PREFIX})",
    )
    add("--keep-keys", action="store_true", help="DIR was made by 'keys init'; take its keys")
    init.set_defaults(func=_init)


def _add_target(target: Subparsers) -> None:
    parser = command(target, "add", "add a CI Target with its content, or renew the CI Targets")
    add = parser.add_argument
    add("target", metavar="TARGET_NAME", help="e.g. raspberrypi4-64-lmp-42")
    add("--tag", metavar="TAG", default="", help="release channel (the only one of the branch)")
    add("--hardware-id", metavar="ID", required=True, help="of the devices")
    add("--version", metavar="N", type=int, help="default: the number the name ends in")
    add("--ostree-repo", metavar="REPO", type=Path, required=True, help="local repository")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--commit", metavar="C", dest="ref", help="OSTree commit")
    what.add_argument("--ref", metavar="R", dest="ref", help="OSTree ref")
    add("--app", metavar="DIR", type=Path, action="append", default=[], help="an App; repeatable")
    add(
        "--image",
        metavar="SOURCE",
        action="append",
        default=[],
        help="where images are, see 'bundle create'; repeatable",
    )
    add("--arch", metavar="ARCH", default="", help="platform, where an image has several")
    gitoptions.add_options(parser)
    _add_directory(parser)
    parser.set_defaults(func=_target_add)


def _add_waves(wave: Subparsers) -> None:
    init = command(wave, "init", "sign Targets for production, to be tried before all get them")
    init.add_argument("wave", metavar="NAME", help="of the wave; given once")
    init.add_argument("targets", metavar="TARGET", nargs="+", help="CI Targets of the factory")
    init.add_argument("--tag", metavar="TAG", default="", help="default: the Targets' only one")
    when = init.add_mutually_exclusive_group()
    when.add_argument(
        "--expires-days", metavar="N", type=int, help="how long its Targets metadata lasts (365)"
    )
    when.add_argument(
        "--expires-at", metavar="DATE", default="", help="2027-03-01 or 2027-03-01T12:00:00Z, UTC"
    )
    _add_directory(init)
    _add_keys(init)
    init.set_defaults(func=_wave_init)
    sign = command(wave, "sign", "add the signature of an offline targets key")
    _add_keys(sign)
    sign.set_defaults(func=_wave_sign)
    complete = command(wave, "complete", "make its Targets the production Targets of their tag")
    complete.set_defaults(func=_wave_complete)
    cancel = command(wave, "cancel", "end it; production stays as it is")
    cancel.set_defaults(func=_wave_cancel)
    for parser in (sign, complete, cancel):
        parser.add_argument("wave", metavar="NAME", help="an active wave")
        _add_directory(parser)


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--factory-dir", metavar="DIR", type=Path, default=Path(), help="the factory (here)"
    )


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-k",
        "--keys",
        metavar="PATH",
        type=Path,
        action="append",
        default=[],
        help="archive with an offline key, or a directory of them; repeatable",
    )


# --- commands --------------------------------------------------------------------------


def _init(args: argparse.Namespace) -> int:
    with _desk() as desk:
        factory.init(
            desk,
            args.directory,
            keytype=_keytype(args),
            expires_in_days=args.expires_in_days,
            prefix=args.registry_prefix,
            keep_keys=args.keep_keys,
        )
    print(_init_text(args.directory))
    return OK


def _target_add(args: argparse.Namespace) -> int:
    spec = BundleSpec(
        target=args.target,
        destination=args.factory_dir,
        keys=args.factory_dir,
        tag=args.tag,
        hardware_id=args.hardware_id,
        version=args.version,
        ostree_repo=args.ostree_repo,
        ref=args.ref,
        apps=tuple(args.app),
        images=tuple(args.image),
        registry_prefix="",
        arch=args.arch,
        git=gitoptions.spec(args),
    )
    with _desk() as desk:
        info = factory.add_target(desk, args.factory_dir, spec)
    print(_target_line(next(t for t in info.targets if t.name == args.target)))
    return OK


def _tag(args: argparse.Namespace) -> int:
    with _desk() as desk:
        info = factory.tag_target(desk, args.factory_dir, args.target, args.tags)
    print(_target_line(next(t for t in info.targets if t.name == args.target)))
    return OK


def _wave_init(args: argparse.Namespace) -> int:
    wave = Wave(args.wave, args.tag, tuple(args.targets))
    with _desk() as desk:
        expires = books.wave_expiry(desk.desk.now(), days=args.expires_days, at=args.expires_at)
        missing = factory.start_wave(desk, args.factory_dir, wave, expires, args.keys)
    print(f"wave {wave.name}: {', '.join(wave.targets)}, until {write_date(expires)}")
    return _told_missing(args.wave, missing)


def _wave_sign(args: argparse.Namespace) -> int:
    with _desk() as desk:
        missing = factory.sign_wave(desk, args.factory_dir, args.wave, args.keys)
    return _told_missing(args.wave, missing)


def _told_missing(wave: str, missing: int) -> int:
    if missing:
        print(f"missing: {missing} (add with 'usb-update factory wave sign {wave} --keys TGZ')")
    else:
        print("signed with enough keys")
    return OK


def _wave_complete(args: argparse.Namespace) -> int:
    with _desk() as desk:
        factory.complete_wave(desk, args.factory_dir, args.wave)
    print(f"wave {args.wave} is complete: its Targets are in production")
    return OK


def _wave_cancel(args: argparse.Namespace) -> int:
    with _desk() as desk:
        factory.cancel_wave(desk, args.factory_dir, args.wave)
    print(f"wave {args.wave} is cancelled; production is as it was")
    return OK


def _show(args: argparse.Namespace) -> int:
    with _desk() as desk:
        info = factory.show(desk, args.factory_dir)
    print(json.dumps(info_json(info)) if args.json else info_text(info))
    return OK


def _rotate(args: argparse.Namespace) -> int:
    with _desk() as desk:
        version, archive = factory.rotate_key(
            desk,
            args.factory_dir,
            Role(args.role),
            places=args.keys,
            keytype=_keytype(args),
            expires_in_days=args.expires_in_days,
        )
    print(f"root version {version} has a new {args.role} key: '{archive}'")
    print("the old one lies beside it and counts no more; keep copies of the new one")
    print("make the bundles anew: devices that have seen the new root refuse older ones")
    return OK


def _offline(args: argparse.Namespace) -> int:
    with _desk() as desk:
        moved = factory.take_offline(desk, args.factory_dir, args.destination)
    for archive in moved:
        print(f"'{archive}' -> '{args.destination / archive.name}'")
    return OK


def _list(args: argparse.Namespace) -> int:
    with _desk() as desk:
        found = factory.list_keys(desk, args.factory_dir, args.keys)
    print("\n".join(_key_line(place) for place in found))
    return OK


def bundle_create(args: argparse.Namespace) -> BundleInfo:
    """Carry out ``bundle create --factory-dir``.

    Raises:
        AuthoringError: an option contradicts the factory, or as `factory.create_bundle`.
    """
    _demand_no_content(args)
    if args.wave and args.type == "prod":
        raise AuthoringError("--wave and --prod exclude each other: a wave is production")
    asked = FactoryBundle(
        factory=args.factory_dir,
        target=args.target,
        destination=args.destination,
        tag=args.tag or "",
        prod=args.type == "prod",
        wave=args.wave or "",
        ostree_repo=args.ostree_repo,
        no_apps=args.no_apps,
        expires_in_days=args.expires_in_days,
        tuf_only=args.tuf_only,
        allow_multiple_targets=args.allow_multiple_targets,
        with_initial_roots=args.with_initial_roots,
    )
    with _desk() as desk:
        return factory.create_bundle(desk, asked)


def _demand_no_content(args: argparse.Namespace) -> None:
    given = {
        "--hardware-id": args.hardware_id,
        "--version": args.version is not None,
        "--ref or --commit": args.ref,
        "--app": args.app,
        "--image": args.image,
        "--arch": args.arch,
        "--containers-git": args.containers_git,
        "--factory-config": args.factory_config,
        "--branch": args.branch,
        "--image-tag": args.image_tag,
        "--submodule": args.submodule,
    }
    if extra := [option for option, value in given.items() if value]:
        raise AuthoringError(
            f"{', '.join(extra)}: the factory's Target says that already",
            hint="give it to 'usb-update factory target add'",
        )


@contextmanager
def _desk() -> Iterator[FactoryDesk]:
    bar = progress.progress()
    try:
        yield wiring.factory_desk(bar or no_progress, text.warn)
    finally:
        if bar:
            bar.close()


def _keytype(args: argparse.Namespace) -> str:
    return ED25519 if args.type == "ed25519" else RSA


# --- words -----------------------------------------------------------------------------


def _init_text(directory: Path) -> str:
    return f"""\
Made the factory '{directory}':
  keys/
      Private keys, never committed. 'usb-update keys offline DST' moves those for
      production and for roots to a medium; keep copies.
  roots/ci/, roots/prod/
      Public. Both go into the device's image, as /usr/lib/sota/tuf/{{ci,prod}}/.
  state.json, targets/, waves/
      The books: 'git log' in the directory shows every act. Back all of it up.
  ostree_repo/, apps/
      Come with the first 'usb-update factory target add'."""


def info_text(info: FactoryInfo) -> str:
    """Say what a factory holds."""
    lines = [f"Factory:\t{info.path}"]
    for kind, root in info.roots.items():
        issued = info.versions.get(kind.value, 0)
        lines.append(
            f"{kind.value}:\troot version {root.version}, until {write_date(root.expires)}; "
            f"metadata version {issued}"
        )
    lines += ["CI Targets:", *(f"\t{_target_line(target)}" for target in info.targets)]
    for tag, targets in info.production.items():
        lines += [f"Production, tag {tag}:", *(f"\t{_target_line(target)}" for target in targets)]
    lines += ["Waves:", *(f"\t{_wave_line(wave)}" for wave in info.waves)]
    return "\n".join(lines)


def _target_line(target: Target) -> str:
    apps = ", ".join(app.name for app in target.apps) or "none"
    return (
        f"{target.name}\ttags: {', '.join(target.tags) or 'none'}\t"
        f"commit: {target.commit[:12]}\tApps: {apps}"
    )


def _wave_line(wave: Wave) -> str:
    return f"{wave.name}\t{wave.state.value}\ttag: {wave.tag}\t{', '.join(wave.targets)}"


def _key_line(place: KeyPlace) -> str:
    where = str(place.archive) if place.archive else "not here"
    how = "online" if place.online else "offline" if place.role else "counts no more"
    return f"{place.role or '-':<10}{how:<16}{place.keytype:<9}{place.keyid}  {where}"


def info_json(info: FactoryInfo) -> dict[str, Any]:
    """Say what a factory holds, for programs."""
    return {
        "path": str(info.path),
        "targets": [_target_json(target) for target in info.targets],
        "production": {
            tag: [_target_json(target) for target in targets]
            for tag, targets in info.production.items()
        },
        "waves": [
            {"name": w.name, "tag": w.tag, "targets": list(w.targets), "state": w.state.value}
            for w in info.waves
        ],
        "active_waves": [w.name for w in info.waves if w.state is WaveState.ACTIVE],
        "roots": {
            kind.value: {"version": root.version, "expires": write_date(root.expires)}
            for kind, root in info.roots.items()
        },
        "versions": dict(info.versions),
    }


def _target_json(target: Target) -> dict[str, Any]:
    return {
        "name": target.name,
        "version": target.version,
        "commit": target.commit,
        "hardware_ids": list(target.hardware_ids),
        "tags": list(target.tags),
        "apps": {app.name: app.uri for app in target.apps},
    }
