"""``usb-update demo``: a whole update, walked through with the real commands.

Everything happens below one temporary directory; each step prints the command as a person
would type it, what it answers, and its exit status.
"""

import argparse
import shlex
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from agent.core.outcome import CheckExit, ExitCode, InstallExit, RunExit
from agent.faces.cli import Parser, aklite_offline, usb_update
from agent.wiring import configuration, opened_station
from agent.wiring_demo import Demo, opened_demo

WIDTH = 88
APP = "usb-update-demo"

COMPOSE = """\
services:
  hello:
    image: {image}
    command: {command}
    network_mode: none
    stop_grace_period: 0s
"""
HELLO = '["sh", "-c", "echo version {version} runs; exec sleep 86400"]'
BROKEN = '["/there/is/no/such/program"]'

Main = Callable[[list[str]], int]


class UnexpectedError(Exception):
    """A command did not answer what the story says."""


def add_commands(subparsers: "argparse._SubParsersAction[Parser]") -> None:
    """Register ``demo``."""
    demo = subparsers.add_parser("demo", help="walk through a whole update")
    demo.add_argument("--keep", action="store_true", help="leave the directory for a look around")
    demo.set_defaults(func=_demo)


def _demo(args: argparse.Namespace) -> int:
    started = time.monotonic()
    with opened_demo(keep=args.keep) as demo:
        try:
            Walk(demo).tell()
        except UnexpectedError as e:
            print(f"\nThe demonstration stopped: {e}")
            return 1
        finally:
            _stop_apps(demo)
        print(f"\nThat was all of it, in {time.monotonic() - started:.0f} s.")
        print("\n".join([*_real_and_not(demo), "", *_what_next(demo, kept=args.keep)]))
    return 0


class Walk:
    """The story, one chapter a method."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.chapter = 0

    def tell(self) -> None:
        """Tell it from the keys to the rollback."""
        self._keys_and_device()
        self._update()
        self._nothing_to_do()
        self._tampered()
        if self.demo.docker:
            self._apps_fail()
        else:
            self._does_not_boot()
        self._where_things_lie()

    def _keys_and_device(self) -> None:
        self._head("A factory makes its keys and root metadata")
        self._type(usb_update, "keys", "init", self.demo.keys)
        self._head("A device is made with the root metadata, running version 1")
        self.demo.build_device()
        self._say(
            "An OSTree sysroot that is not booted, one deployment, a configuration of a few "
            f"lines: {self.demo.short(self.demo.device.config)}"
        )
        self._say(self.demo.docker_sentence)
        self._type(aklite_offline, "current", *self._config)

    def _update(self) -> None:
        self._head("The factory makes version 2 and a signed bundle of it")
        bundle = self._make_bundle("2", HELLO)
        with self.demo.plugged_in(bundle) as (media, made_of):
            self._head(f"The stick is plugged in: {made_of}")
            self._offline(CheckExit.UPDATE_FOUND, "check", "--src-dir", media)
            self._offline(InstallExit.NEEDS_REBOOT, "install", "--src-dir", media)
        self._head("The stick is pulled out, the device reboots (simulated), run finishes")
        self.demo.device.reboot()
        self._offline(RunExit.OK, "run")
        self._type(aklite_offline, "current", *self._config)

    def _nothing_to_do(self) -> None:
        self._head("The same stick again: nothing to do")
        with self.demo.plugged_in(self.demo.bundle("2")) as (media, _):
            self._offline(InstallExit.UP_TO_DATE, "install", "--src-dir", media)

    def _tampered(self) -> None:
        self._head("Someone changed a word of a signed file: refused, the device as it was")
        bundle = self.demo.tampered_copy(self.demo.bundle("2"))
        with self.demo.plugged_in(bundle) as (media, _):
            self._offline(InstallExit.BUNDLE_INVALID, "install", "--src-dir", media)

    def _apps_fail(self) -> None:
        self._head("Version 3 has an App that cannot start: the device goes back by itself")
        with self.demo.plugged_in(self._make_bundle("3", BROKEN)) as (media, _):
            self._offline(InstallExit.NEEDS_REBOOT, "install", "--src-dir", media)
        self.demo.device.reboot()
        self._offline(RunExit.NEEDS_REBOOT, "run")
        self._say("The device reboots once more (simulated) and finishes the rollback.")
        self.demo.device.reboot()
        self._offline(RunExit.OK, "run")
        self._type(aklite_offline, "current", *self._config)

    def _does_not_boot(self) -> None:
        self._head("Version 3 does not boot: the boot loader goes back, run admits it")
        with self.demo.plugged_in(self._make_bundle("3", BROKEN)) as (media, _):
            self._offline(InstallExit.NEEDS_REBOOT, "install", "--src-dir", media)
        self.demo.device.boot_rollback()
        self._offline(RunExit.BOOT_ROLLBACK, "run")
        self._type(aklite_offline, "current", *self._config)

    def _where_things_lie(self) -> None:
        self._head("Where the records lie")
        self._type(usb_update, "history", *self._config)
        for path, what in self.demo.places():
            self._say(f"{self.demo.short(path)}  {what}")

    def _make_bundle(self, version: str, command: str) -> Path:
        commit = self.demo.device.commit_rootfs(version)
        bundle = self.demo.bundle(version)
        words: list[str | Path] = ["bundle", "create", f"demo-board-lmp-{version}", bundle]
        words += ["--keys", self.demo.keys, "--tag", self.demo.tag]
        words += ["--hardware-id", self.demo.hardware_id]
        words += ["--ostree-repo", self.demo.device.factory_repo, "--commit", commit]
        if self.demo.docker:
            command = command.format(version=version)
            text = COMPOSE.format(image=self.demo.image_name, command=command)
            app = self.demo.write_app(APP, version, text)
            words += ["--app", app, "--image", self.demo.image_archive]
        self._type(usb_update, *words)
        return bundle

    @property
    def _config(self) -> tuple[str, str | Path]:
        return ("--config", self.demo.device.config)

    def _offline(self, expected: ExitCode, command: str, *words: str | Path) -> None:
        self._type(aklite_offline, command, *self._config, *words, expected=int(expected))

    def _type(self, main: Main, *words: str | Path, expected: int = 0) -> None:
        """Run a command as a person would, and print its exit status."""
        prog = "aklite-offline" if main is aklite_offline else "usb-update"
        shown = shlex.join([prog, *(self.demo.short(word) for word in words)])
        print(f"\n$ {shown}", flush=True)
        code = main([str(word) for word in words])
        print(f"[exit {code}]", flush=True)
        if code != expected:
            raise UnexpectedError(f"expected exit {expected}, found {code}")

    def _head(self, title: str) -> None:
        self.chapter += 1
        print(f"\n--- {self.chapter}. {title} ".ljust(WIDTH, "-"), flush=True)

    def _say(self, text: str) -> None:
        print(textwrap.fill(text, WIDTH), flush=True)


def _real_and_not(demo: Demo) -> list[str]:
    apps = "and Docker" if demo.docker else "(no Docker here, so no Apps)"
    return [
        f"Real: the keys, the bundles, every check, the OSTree sysroot {apps}.",
        "Not real: the sysroot was never booted, so nothing rebooted.",
    ]


def _what_next(demo: Demo, *, kept: bool) -> list[str]:
    look = (
        f"Look around in {demo.directory}. OSTree makes what it deployed immutable; to remove it:\n"
        f"  chattr -R -i {demo.directory}; rm -r {demo.directory}"
        if kept
        else "The directory is gone; 'usb-update demo --keep' leaves it for a look around."
    )
    return [
        look,
        "Next: README.md, 'On a device', and docs/authoring.md for bundles of your own.",
        f"The commands are in {Path(sys.argv[0]).parent}.",
    ]


def _stop_apps(demo: Demo) -> None:
    """Leave no container of the demonstration behind."""
    if demo.docker and demo.device.config.exists():
        with opened_station(configuration([demo.device.config])) as station:
            station.apps.stop_all_but(())
            station.apps.prune(())
