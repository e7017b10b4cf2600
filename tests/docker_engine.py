"""Private Docker engines: started for the tests, stopped by their own process number.

`Engine` runs one ``dockerd`` with its own directory, socket and containerd, so that it neither
sees nor disturbs the machine's Docker. `FLAVOURS` are the engines that are tested against:

* ``20.10-classic``: the oldest one that is supported, of Debian 12;
* ``26-classic``: the engine of Debian 13, image store as in 20.10;
* ``26-containerd``: the same with ``features.containerd-snapshotter``, where an image's ID is
  the digest of its manifest, not of its configuration.

On Debian 13 the machine's own engine is the 26 one and there is no 20.10.

Host commands used: dockerd, containerd, runc, docker, docker compose, setpriv, umount.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CACHE = Path(__file__).parents[1] / ".cache"  # filled by scripts/setup.sh
DOCKER26 = (CACHE / "docker26/usr/sbin", CACHE / "docker26-containerd/usr/bin")
DOCKER_CONFIG = CACHE / "docker-config"
START_TIMEOUT_S = 60.0  # one second on an idle machine
STOP_TIMEOUT_S = 20.0  # dockerd gives containers ten
RUN_TIMEOUT_S = 100.0


class NoEngineError(Exception):
    """The machine cannot run this engine; the message says why."""


@dataclass(frozen=True, slots=True)
class Flavour:
    """One kind of engine.

    Attributes:
        name: as in the ids of tests.
        version: what the engine's version begins with.
        containerd_store: whether images live in containerd.
    """

    name: str
    version: str
    containerd_store: bool = False

    def programs(self) -> tuple[Path, ...]:
        """Return the directories to look for programs in, before ``PATH``.

        Raises:
            NoEngineError: no engine of this version is here.
        """
        for directories in ((), DOCKER26):
            dockerd = shutil.which("dockerd", path=_path(directories))
            if dockerd and _version(dockerd).startswith(self.version):
                return directories
        raise NoEngineError(
            f"no dockerd {self.version} here; 'scripts/setup.sh test' looks for one"
        )


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour("20.10-classic", "20.10."),
        Flavour("26-classic", "26."),
        Flavour("26-containerd", "26.", containerd_store=True),
    )
}


@dataclass
class Engine:
    """A running engine; a context manager that leaves nothing behind.

    Attributes:
        flavour: which one.
        root: its directory; short, since a socket's path has at most 107 characters.
        env: what a program needs to find it: ``DOCKER_HOST``, and ``DOCKER_CONFIG`` where
            `docker compose` is ours.
    """

    flavour: Flavour
    root: Path = field(init=False)
    env: dict[str, str] = field(init=False)
    _process: "subprocess.Popen[bytes] | None" = field(init=False, default=None)

    @property
    def host(self) -> str:
        """What ``DOCKER_HOST`` says."""
        return f"unix://{self.root}/s"

    def __enter__(self) -> Self:
        programs = self.flavour.programs()
        if os.geteuid() != 0:
            raise NoEngineError("dockerd needs root")
        self.root = Path(tempfile.mkdtemp(prefix="uua-", dir="/tmp"))  # short
        self.env = {"DOCKER_HOST": self.host, **compose_env()}
        try:
            self._start(programs)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def run(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """Run ``docker`` against this engine; return what it printed."""
        done = subprocess.run(
            ["docker", *map(str, arguments)],
            env=os.environ | self.env,
            input=stdin,
            capture_output=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        command = " ".join(map(str, arguments))
        assert done.returncode == 0, f"docker {command}: {done.stderr.decode()}{self._last_words()}"
        return done.stdout.decode()

    def load(self, archive: Path) -> None:
        """Load an archive of images."""
        self.run("load", "--quiet", "--input", archive)

    def image(self, reference: str) -> Any:
        """Return what ``docker image inspect`` says of one image."""
        return json.loads(self.run("image", "inspect", reference))[0]

    def images(self) -> list[str]:
        """Return the IDs of all images."""
        return sorted(set(self.run("images", "--all", "--quiet", "--no-trunc").split()))

    def containers(self, *, running: bool = False) -> list[str]:
        """Return the names of containers."""
        everything = [] if running else ["--all"]
        return sorted(self.run("ps", *everything, "--format", "{{.Names}}").split())

    def wipe(self) -> None:
        """Remove every container, network, volume and image."""
        for listing, removal in (
            (["ps", "--all", "--quiet"], ["rm", "--force", "--volumes"]),
            (["network", "ls", "--quiet", "--filter", "type=custom"], ["network", "rm"]),
            (["volume", "ls", "--quiet"], ["volume", "rm", "--force"]),
        ):
            if found := list(dict.fromkeys(self.run(*listing).split())):
                self.run(*removal, *found)
        self.run("image", "prune", "--all", "--force")  # in the right order, parents last

    def _start(self, programs: tuple[Path, ...]) -> None:
        features = {"containerd-snapshotter": True} if self.flavour.containerd_store else {}
        (self.root / "daemon.json").write_text(json.dumps({"features": features}))
        with (self.root / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    # Killed tests take their engine with them.
                    "setpriv", "--pdeathsig", "TERM", "dockerd",
                    "--config-file", self.root / "daemon.json",
                    "--data-root", self.root / "data",
                    "--exec-root", self.root / "exec",
                    "--pidfile", self.root / "pid",
                    "--host", self.host,
                    # The machine's firewall is not ours to change; networks of compose
                    # projects still get bridges of their own.
                    "--bridge", "none", "--iptables=false", "--ip6tables=false",
                ],
                env=os.environ | {"PATH": _path(programs)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoEngineError(f"{self.flavour.name} did not start:{self._last_words()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        if not (self.root / "s").exists():
            return False
        command = ["docker", "version", "--format", "{{.Server.Version}}"]
        done = subprocess.run(
            command, env=os.environ | self.env, capture_output=True, timeout=30, check=False
        )
        return done.returncode == 0

    def _last_words(self) -> str:
        lines = (self.root / "log").read_text(errors="replace").splitlines()
        return "\n".join(["", *lines[-5:]])

    def _stop(self) -> None:
        if self._process:
            if self._process.poll() is None:
                # Bridges of networks outlive their engine. The rest needs no healthy one.
                with suppress(AssertionError, subprocess.TimeoutExpired):
                    self.wipe()
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        kill_below(self.root)
        unmount_below(self.root)
        shutil.rmtree(self.root)


class Engines:
    """Starts each engine when it is first asked for; stops them all at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._engines: dict[str, Engine | NoEngineError] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, name: str) -> Engine:
        """Return a running engine.

        Raises:
            NoEngineError: the machine cannot run it.
        """
        if name not in self._engines:
            try:
                self._engines[name] = self._stack.enter_context(Engine(FLAVOURS[name]))
            except NoEngineError as error:
                self._engines[name] = error
        engine = self._engines[name]
        if isinstance(engine, NoEngineError):
            raise NoEngineError(*engine.args)
        return engine

    def any(self) -> Engine:
        """Return the oldest engine that the machine can run.

        Raises:
            NoEngineError: there is none.
        """
        errors = []
        for name in FLAVOURS:
            try:
                return self.get(name)
            except NoEngineError as error:
                errors.append(str(error))
        raise NoEngineError("; ".join(errors))


def compose_env() -> Mapping[str, str]:
    """Return what makes ``docker compose`` work: nothing, where the machine has it."""
    if not _compose_works({}) and (DOCKER_CONFIG / "cli-plugins").exists():
        return {"DOCKER_CONFIG": str(DOCKER_CONFIG)}
    return {}


def why_no_engine() -> str | None:
    """Return why no engine can be run here; None when one can, as far as one can see."""
    if os.geteuid() != 0:
        return "dockerd needs root"
    absent = [name for name in ("docker", "dockerd", "setpriv") if not shutil.which(name)]
    if absent:
        return f"no {', '.join(absent)} here"
    if not _compose_works(dict(compose_env())):
        return "no docker compose version 2 here"
    return None


def kill_below(root: Path) -> None:
    """Kill what still runs with ``root`` in its command line: shims and a containerd left over.

    Only this directory's processes name it, and nobody else has that directory.
    """
    word = re.compile(rb"(?:^|[\0=/])" + re.escape(os.fsencode(root)) + rb"(?:[/\0]|$)")
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ours = word.search((entry / "cmdline").read_bytes())
            if ours and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def mounts_below(root: Path) -> list[str]:
    """Return the mount points below ``root``, the innermost first."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    points = (_unescape(line.split(" ")[4]) for line in lines)
    return [point for point in reversed(list(points)) if Path(point).is_relative_to(root)]


def unmount_below(root: Path) -> None:
    """Unmount whatever is mounted below ``root``, lazily if it is in use."""
    for point in mounts_below(root):
        subprocess.run(["umount", point], check=False, capture_output=True)
    for point in mounts_below(root):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def _unescape(field: str) -> str:
    """Undo proc(5)'s octal escapes of space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _path(directories: tuple[Path, ...]) -> str:
    return os.pathsep.join([*map(str, directories), os.environ["PATH"], "/usr/sbin", "/sbin"])


@cache
def _version(dockerd: str) -> str:
    done = subprocess.run([dockerd, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.removeprefix("Docker version ")


def _compose_works(env: dict[str, str]) -> bool:
    try:
        done = subprocess.run(
            ["docker", "compose", "version"],
            env=os.environ | env,
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
