"""The options by which a command takes Apps and configuration from git."""

import argparse

from agent.services.sources import GitSpec


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them to a command that makes a Target."""
    add = parser.add_argument
    add(
        "--containers-git",
        metavar="PATH[@REF]",
        default="",
        help="a clone of containers.git: every App in it, as CI finds them (REF: its HEAD)",
    )
    add(
        "--factory-config",
        metavar="PATH[@REF]",
        default="",
        help="a clone of ci-scripts.git: which Apps the bundle carries, by factory-config.yml",
    )
    add(
        "--branch",
        metavar="NAME",
        default="",
        help="whose 'ref_options' count; default: the one --containers-git names",
    )
    add(
        "--image-tag",
        metavar="TAG",
        default="",
        help="of the factory's own images (<version>_<commit>)",
    )
    add(
        "--submodule",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="a clone of a submodule of --containers-git; repeatable",
    )


def spec(args: argparse.Namespace) -> GitSpec:
    """Return what was asked for."""
    return GitSpec(
        containers=args.containers_git,
        factory_config=args.factory_config,
        branch=args.branch,
        image_tag=args.image_tag,
        submodules=tuple(args.submodule),
    )
