"""A small OSTree device and a stick in a temporary directory, for ``usb-update demo``.

The device is a sysroot that is not booted; everything in it is made by the real
``ostree``. The stick is an ext4 image on a loop device where the caller may mount one,
else a directory. Nothing outside the directory changes, and `Stick` unmounts what it
mounted.

Host commands used: ostree, mkfs.ext4, mount, umount.
"""

import hashlib
import io
import json
import os
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.adapters import shell
from agent.core.errors import DeviceError

OS_NAME = "demo"
HARDWARE_ID = "demo-board"
TAG = "main"
TIMEOUT_S = 60.0
STICK_SIZE_BYTES = 256 * 1024 * 1024  # sparse; a demo bundle has a few MiB
BUSYBOX = Path("/bin/busybox")
MOUNT_OPTIONS = "ro,nosuid,nodev,noexec,noatime,noload"


class DemoError(DeviceError):
    """The machine lacks something the demonstration needs."""


@dataclass(frozen=True, slots=True)
class DemoDevice:
    """A device below one directory.

    Attributes:
        directory: everything of it lies here.
        docker: whether it runs Compose Apps.
    """

    directory: Path
    docker: bool

    @property
    def sysroot(self) -> Path:
        """The OSTree sysroot."""
        return self.directory / "sysroot"

    @property
    def factory_repo(self) -> Path:
        """Where the factory commits new versions of the rootfs."""
        return self.directory / "factory" / "ostree"

    @property
    def config(self) -> Path:
        """The device's configuration, for ``--config``."""
        return self.directory / "etc" / "40-demo.toml"

    @property
    def storage(self) -> Path:
        """The device's state: ``sql.db``, ledger, history."""
        return self.directory / "var-sota"

    @property
    def _session(self) -> Path:
        return self.directory / "run" / "session"

    def build(self, roots: Path) -> None:
        """Make the device with version 1 deployed.

        Args:
            roots: directory with the ``ci`` and ``prod`` root chains to provision.
        """
        self._make_directories()
        shutil.copytree(roots, self.directory / "usr-lib-sota-tuf")
        self.config.write_text(self._settings())
        _ostree("init", "--mode=archive", "--repo", self.factory_repo)
        _ostree("admin", "init-fs", self.sysroot)
        _ostree("admin", "os-init", "--sysroot", self.sysroot, OS_NAME)
        commit = self.commit_rootfs("1")
        _ostree("pull-local", "--repo", self.sysroot / "ostree/repo", self.factory_repo, commit)
        _ostree(
            "admin", "deploy", "--sysroot", self.sysroot, "--os", OS_NAME, "--karg=quiet", commit
        )

    def commit_rootfs(self, version: str) -> str:
        """Commit a small bootable rootfs to the factory's repository; return the commit."""
        tree = self.directory / "factory" / f"rootfs-{version}"
        for name, content in _rootfs(version).items():
            file = tree / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        done = _ostree(
            "commit", "--repo", self.factory_repo, "--orphan", "--canonical-permissions",
            "--subject", f"version {version}", f"--tree=dir={tree}",
        )  # fmt: skip
        return done.text.strip()

    def reboot(self) -> None:
        """Do what a reboot does to this device: what lies on a tmpfs is gone."""
        for mark in self._session.iterdir():
            mark.unlink()

    def boot_rollback(self) -> None:
        """Do what a boot loader does when the new deployment does not come up."""
        _ostree("admin", "undeploy", "--sysroot", self.sysroot, "0")
        self.reboot()

    def _make_directories(self) -> None:
        for path in (self.storage, self._session, self.config.parent, self.factory_repo.parent):
            path.mkdir(parents=True, mode=0o700)
        self.sysroot.mkdir()

    def _settings(self) -> str:
        kind = "ostree+compose_apps" if self.docker else "ostree"
        return (
            "[provision]\n"
            f'primary_ecu_hardware_id = "{HARDWARE_ID}"\n\n'
            "[pacman]\n"
            f'type = "{kind}"\ntags = "{TAG}"\nos = "{OS_NAME}"\nbooted = "staged"\n'
            f'sysroot = "{self.sysroot}"\n'
            f'compose_apps_root = "{self.storage}/compose-apps"\n'
            f'reset_apps_root = "{self.storage}/reset-apps"\n'
            f'docker_compose_bin = "{shutil.which("docker") or "/usr/bin/docker"}"\n\n'
            "[storage]\n"
            f'path = "{self.storage}"\n'
            f'uptane_metadata_path = "{self.directory}/usr-lib-sota-tuf"\n\n'
            "[import]\n"
            f'base_path = "{self.storage}/import"\n\n'
            "[bootloader]\n"
            f'reboot_sentinel_dir = "{self._session}"\n\n'
            "[logger]\n"
            "loglevel = 5\n\n"
            "[usb_update]\n"
            # Agents of the machine this runs on have nothing to do with this device.
            f'lock = "{self.directory}/run/aklite.lock"\n'
        )


@dataclass(frozen=True, slots=True)
class Demo:
    """Everything of one demonstration.

    Attributes:
        directory: all of it lies here.
        docker: whether Apps are part of it.
        docker_sentence: says so to a person.
    """

    directory: Path
    docker: bool
    docker_sentence: str
    tag: str = TAG
    hardware_id: str = HARDWARE_ID
    image_name: str = "usb-update-demo/hello:1"

    @property
    def device(self) -> DemoDevice:
        """The device."""
        return DemoDevice(self.directory / "device", self.docker)

    @property
    def keys(self) -> Path:
        """The factory's keys and root metadata."""
        return self.directory / "factory-keys"

    @property
    def image_archive(self) -> Path:
        """The container image, as ``docker save`` writes it."""
        return self.directory / "hello.tar"

    def build_device(self) -> None:
        """Make the device, provisioned with the factory's roots."""
        self.device.build(self.keys / "roots")

    def bundle(self, version: str) -> Path:
        """Return where the bundle of a version lies."""
        return self.directory / f"bundle-{version}"

    def write_app(self, name: str, version: str, compose: str) -> Path:
        """Write an App's source directory."""
        app = self.directory / f"apps-{version}" / name
        app.mkdir(parents=True)
        (app / "docker-compose.yml").write_text(compose)
        return app

    def tampered_copy(self, bundle: Path) -> Path:
        """Return a copy of a bundle with one word of its signed metadata changed."""
        copy = self.directory / f"{bundle.name}-tampered"
        shutil.copytree(bundle, copy)
        file = copy / "tuf" / "bundle-targets.json"
        file.write_text(file.read_text().replace(self.tag, "evil", 1))
        return copy

    @contextmanager
    def plugged_in(self, bundle: Path) -> Iterator[tuple[Path, str]]:
        """Put a bundle on a stick and plug it in; see `stick`."""
        with (
            TemporaryDirectory(dir=self.directory, prefix="stick-") as directory,
            stick(Path(directory), bundle) as plugged,
        ):
            yield plugged

    def places(self) -> tuple[tuple[Path, str], ...]:
        """Return what lies where, for the curious."""
        storage = self.device.storage
        return (
            (storage / "sql.db", "trusted metadata and versions, shared with aktualizr-lite"),
            (storage / "usb-update", "promise, history, quarantine"),
            (self.device.sysroot / "ostree/deploy", "the deployments"),
        )

    def short(self, word: str | Path) -> str:
        """Return a word of a command line with the demonstration's directory left out."""
        return str(word).replace(f"{self.directory}/", "")


@contextmanager
def opened_demo(*, keep: bool) -> Iterator[Demo]:
    """Make a directory for a demonstration and remove it afterwards.

    Args:
        keep: leave it for a look around.
    """
    directory = Path(tempfile.mkdtemp(prefix="usb-update-demo-"))
    try:
        sentence = _why_no_docker()
        demo = Demo(directory, not sentence, sentence or "Its Apps run on this machine's Docker.")
        if demo.docker:
            _write_image(demo.image_archive, demo.image_name)
        yield demo
    finally:
        if not keep:
            remove_tree(directory)


@contextmanager
def stick(directory: Path, content: Path) -> Iterator[tuple[Path, str]]:
    """Put a bundle on a stick and plug it in.

    Args:
        directory: where the stick's image and mount point go.
        content: the bundle's directory.

    Yields:
        The mount point, and in words what the stick is made of.
    """
    mount_point = directory / "media"
    mount_point.mkdir()
    if os.geteuid() != 0 or not _mounted_image(directory / "stick.img", content, mount_point):
        yield content, "a directory, since mounting an image needs root"
        return
    try:
        yield mount_point, "an ext4 image on a loop device, mounted read-only"
    finally:
        shell.run(["umount", "--lazy", str(mount_point)], timeout_s=TIMEOUT_S)


def remove_tree(directory: Path) -> None:
    """Remove the demonstration, deployments included, which OSTree makes immutable."""
    with suppress(shell.CommandError):
        shell.run(["chattr", "-R", "-i", str(directory)], timeout_s=TIMEOUT_S)
    shutil.rmtree(directory, ignore_errors=True)


def _mounted_image(image: Path, content: Path, mount_point: Path) -> bool:
    try:
        with image.open("wb") as file:
            file.truncate(STICK_SIZE_BYTES)
        shell.run(["mkfs.ext4", "-q", "-d", str(content), str(image)], timeout_s=TIMEOUT_S)
        options = f"loop,{MOUNT_OPTIONS}"
        shell.run(
            ["mount", "-t", "ext4", "-o", options, str(image), str(mount_point)],
            timeout_s=TIMEOUT_S,
        )
    except shell.CommandError:
        return False
    return True


def _why_no_docker() -> str:
    """Return why Apps are left out; empty when they are not."""
    try:
        shell.run(["docker", "version", "--format", "{{.Server.Version}}"], timeout_s=TIMEOUT_S)
        shell.run(["docker", "compose", "version"], timeout_s=TIMEOUT_S)
    except shell.CommandError:
        return (
            "No Docker engine with the compose plugin answers on this machine, so this "
            "walk is about the root file system alone; with one, it shows Apps as well."
        )
    if not BUSYBOX.exists():
        return f"Apps are left out: there is no '{BUSYBOX}' (package busybox-static)."
    return ""


def _write_image(archive: Path, name: str) -> None:
    """Write an image with one static program, as ``docker save`` would."""
    layer = _tar({"bin/busybox": BUSYBOX.read_bytes(), "bin/sh": b"", "bin/sleep": b""})
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    archive.write_bytes(
        _tar(
            {
                "layer.tar": layer,
                "config.json": json.dumps(config).encode(),
                "manifest.json": json.dumps(manifest).encode(),
            }
        )
    )


def _tar(files: Mapping[str, bytes]) -> bytes:
    """Pack files; an empty one below ``bin`` becomes a link to busybox."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o755, len(content)
            if not content:
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _architecture() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}.get(machine, machine)


def _ostree(*arguments: str | Path) -> shell.Finished:
    env: Mapping[str, str] = {"OSTREE_SYSROOT_DEBUG": "mutable-deployments"}
    try:
        return shell.run(["ostree", *map(str, arguments)], timeout_s=TIMEOUT_S, env=env)
    except shell.NotInstalledError as e:
        raise DemoError("'ostree' is not installed", hint="apt-get install ostree") from e
    except shell.CommandError as e:
        raise DemoError(f"'ostree {arguments[0]}' failed: {e.stderr}") from e


def _rootfs(version: str) -> dict[str, str]:
    """Return the files of the smallest rootfs that ``ostree admin deploy`` accepts."""
    return {
        "usr/lib/modules/6.1.0/vmlinuz": "kernel\n",
        "usr/lib/modules/6.1.0/initramfs.img": "initramfs\n",
        "usr/lib/os-release": f'ID=demo\nNAME=Demo\nPRETTY_NAME="Demo {version}"\n',
        "usr/etc/hostname": "demo-device\n",
        "usr/share/version": f"{version}\n",
    }
