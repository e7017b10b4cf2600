"""``usb-update bundle create --factory``: options and words of bundles from a factory's server."""

import argparse
from pathlib import Path

from agent import wiring
from agent.core.bundletype import BundleType
from agent.core.errors import UsageError
from agent.core.factoryapi import DEFAULT_SERVER, Branch
from agent.services.author import BundleInfo
from agent.services.desk import Desk
from agent.services.fetch import FetchSpec, fetch_bundle

# What only a bundle that is made here knows: option, and the attribute it sets.
OF_OWN_BUNDLES = (
    ("--app", "app"),
    ("--image", "image"),
    ("--commit or --ref", "ref"),
    ("--version", "version"),
    ("--hardware-id", "hardware_id"),
    ("--containers-git", "containers_git"),
    ("--factory-config", "factory_config"),
    ("--branch", "branch"),
    ("--image-tag", "image_tag"),
    ("--submodule", "submodule"),
)
# What only a bundle from a server knows; the server itself has a default.
OF_SERVERS = (("--token-file", "token_file"), ("--roots", "roots"))


def add_options(create: argparse.ArgumentParser) -> None:
    """Add the options that go with ``--factory``."""
    group = create.add_argument_group(
        "with --factory", "what fioctl's 'offline-update' fetches, verified before it is listed"
    )
    add = group.add_argument
    add("--token-file", metavar="F", type=Path, help="a file that holds the token and no more")
    add("--server", metavar="URL", default=DEFAULT_SERVER, help=f"({DEFAULT_SERVER})")
    add(
        "--roots",
        metavar="DIR",
        type=Path,
        help="the devices' roots, ci/ and prod/; without it the server's own first root is trusted",
    )


def create(desk: Desk, args: argparse.Namespace) -> BundleInfo:
    """Fetch the bundle that the arguments ask for.

    Raises:
        UsageError: the arguments do not go together.
    """
    _demand_together(args)
    with wiring.factory_server(args.server, args.factory, args.token_file) as server:
        return fetch_bundle(desk, server, _spec(args))


def demand_no_server(args: argparse.Namespace) -> None:
    """Refuse what a bundle that is made here would pass over in silence.

    Raises:
        UsageError: an option goes with ``--factory`` alone.
    """
    given = [option for option, name in OF_SERVERS if getattr(args, name) is not None]
    if args.server != DEFAULT_SERVER:
        given.append("--server")
    if given:
        raise UsageError(
            f"{', '.join(given)}: only for a bundle from a factory's server",
            hint="name the factory with --factory NAME, or leave that away",
        )


def _demand_together(args: argparse.Namespace) -> None:
    if args.token_file is None:
        raise UsageError("--factory needs --token-file F", hint="F holds the token and no more")
    if args.wave and args.type == BundleType.PROD:
        raise UsageError("--wave is for production already: leave --prod away")
    if strange := [option for option, name in OF_OWN_BUNDLES if getattr(args, name, None)]:
        raise UsageError(
            f"{', '.join(strange)}: only for a bundle that is made here, with --keys",
            hint="the factory's Target says all of that",
        )


def _spec(args: argparse.Namespace) -> FetchSpec:
    prod = args.type == BundleType.PROD
    return FetchSpec(
        target=args.target,
        destination=args.destination,
        branch=Branch(args.tag, prod=prod, wave=args.wave),
        expires_in_days=args.expires_in_days,
        tuf_only=args.tuf_only,
        no_apps=args.no_apps,
        allow_multiple_targets=args.allow_multiple_targets,
        with_initial_roots=args.with_initial_roots,
        ostree_repo=args.ostree_repo,
        roots=args.roots,
        arch=args.arch,
    )
