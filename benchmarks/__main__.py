"""Measure what is bounded and write the figures into docs/benchmarks.md.

Ratios are taken side by side: ours and the bare programs in turn, several times, medians
compared. Needs root, ostree and, for Apps, a Docker engine (``make bench`` sets it up).
"""

import compileall
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OSTREE_SYSROOT_DEBUG", "mutable-deployments")

from agent.adapters import journal
from agent.adapters.apps import ComposeApps
from agent.adapters.ostree import OstreeSysroot
from agent.core.target import AppRef
from agent.core.verify import verify_bundle
from benchmarks import authoring
from benchmarks.figures import MIB, ROUNDS, Figure, ratio, scratch, timed
from tests import udevd
from tests.app_store import Image, busybox_layer, make_app, make_image, reference, tar_of
from tests.docker_engine import Engine, Engines, NoEngineError
from tests.factory import NOW, bundle, target_entry
from tests.field import Field, FieldDevice
from tests.loop_sticks import attach, detach
from tests.ostree_device import Device, make_device, ostree
from tests.service import make_stick, pull_out, serving, status, until

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/benchmarks.md"
STICK_UUID = "9b2a58a0-5d35-4c6f-9d6b-0123456789a"
COMPOSE = """\
services:
  main:
    image: "{main}"
    network_mode: none
    stop_grace_period: 0s
"""


# --- OSTree ----------------------------------------------------------------------------


def pull_and_stage() -> list[Figure]:
    """A commit of 200 MB in 2,000 files, half of it compressible."""
    files = {f"usr/lib/f{n:04}": os.urandom(50_000) + bytes(50_000) for n in range(2000)}
    with scratch() as base:
        origin = make_device(base / "origin")
        commit = origin.new_commit(files)
        stick = origin.bundle_repo(base / "stick", commit)

        def fresh() -> Device:
            device = Device(base / f"sysroot-{time.time_ns()}", origin.os, origin.origin)
            subprocess.run(["cp", "-a", origin.sysroot, device.sysroot], check=True)
            return device

        def ours() -> float:
            device = fresh()
            sysroot = OstreeSysroot(device.sysroot, os=device.os, booted=False)

            def work() -> None:
                sysroot.pull(stick, commit, lambda *_: None)
                sysroot.stage(commit)

            return timed(work)

        def bare() -> float:
            device = fresh()

            def work() -> None:
                ostree("pull-local", "--untrusted", "--repo", device.repo, stick, commit)
                ostree("admin", "deploy", "--sysroot", device.sysroot, "--os", device.os, commit)

            return timed(work)

        return [ratio("pull and stage 200 MB, against ostree alone", ours, bare, 1.10)]


# --- Apps ------------------------------------------------------------------------------


def apps() -> list[Figure]:
    """Images of 300 MB in six layers; fetched, loaded and started, against `docker load`."""
    try:
        with Engines() as engines:
            return _apps(engines.any())
    except NoEngineError as error:
        return [Figure("Apps", "", "", f"not taken: {error}", "<= 1.15", None)]


def _apps(engine: Engine) -> list[Figure]:
    os.environ.update(engine.env)
    with scratch() as base:
        layers = [tar_of({f"data{n}": os.urandom(25 * MIB) + bytes(25 * MIB)}) for n in range(6)]
        image = make_image([busybox_layer(), *layers], cmd=["/bin/sleep", "3600"])
        app = make_app(base / "bundle", "bench", COMPOSE, {"main": image})
        archive = _docker_archive(base, image)

        def device() -> ComposeApps:
            engine.wipe()
            place = base / f"device-{time.time_ns()}"
            return ComposeApps(
                place / "store", place / "projects", docker_host=engine.host, engine_root=base,
                watermark=95,
            )  # fmt: skip

        def fetched_and_loaded() -> float:
            apps = device()
            return timed(lambda: _fetch_and_load(apps, base / "bundle", app))

        def loaded() -> float:
            engine.wipe()
            return timed(lambda: engine.load(archive))

        def started() -> float:
            apps = device()
            apps.fetch(base / "bundle", app, lambda *_: None)
            took = timed(lambda: apps.start(app))
            apps.stop_all_but(())
            return took

        what = "fetch and load 300 MB of Apps, against docker load of the same"
        median = statistics.median(started() for _ in range(ROUNDS))
        return [
            ratio(what, fetched_and_loaded, loaded, 1.15),
            Figure(
                "load and start the same App", f"{median:.2f} s", "", f"{median:.2f} s", "", None
            ),
        ]


def _fetch_and_load(device: ComposeApps, bundle_store: Path, app: AppRef) -> None:
    """Bring an App's images from the bundle into the engine; starting it costs extra."""
    device.fetch(bundle_store, app, lambda *_: None)
    for image in device._store.content(app).images:
        device._load(image)


def _docker_archive(base: Path, image: Image) -> Path:
    """Write the image with the same compressed layers, as `docker load` takes it."""
    tree = base / "archive"
    tree.mkdir()
    for digest in (image.config, *image.layers):
        (tree / digest).write_bytes(image.blobs[digest])
    tag = reference("bench", image).partition("@")[0] + ":bare"
    saved = [{"Config": image.config, "RepoTags": [tag], "Layers": list(image.layers)}]
    (tree / "manifest.json").write_text(json.dumps(saved))
    archive = base / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(tree.iterdir()):
            tar.add(path, path.name)
    return archive


# --- memory and start-up ----------------------------------------------------------------


def memory() -> list[Figure]:
    """Peak resident memory of `aklite-offline install`, for a small and a large Target."""
    with scratch() as base:
        field = Field(base)
        return [_peak(field, base, size) for size in (10, 400)]


def _peak(field: Field, base: Path, size_mib: int) -> Figure:
    files = {f"usr/lib/big{n}": os.urandom(10 * MIB) for n in range(size_mib // 10)}
    stick = field.bundle(2, files=files)
    device = field.device(base / f"device-{size_mib}")
    peak = _peak_mib(device.argv("install", "-s", stick), expected=100)
    return Figure(
        f"peak memory of install, {size_mib} MiB", f"{peak:.0f} MiB", "", f"{peak:.0f} MiB",
        "< 80 MiB", peak < 80,
    )  # fmt: skip


def _peak_mib(argv: list[str], *, expected: int) -> float:
    """Return VmHWM as last seen; what wait4() counts includes this process at its fork."""
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak_kib = 0
    while process.poll() is None:
        told = _status(process.pid).get("VmHWM", "0 kB")
        peak_kib = max(peak_kib, int(told.split()[0]))
        time.sleep(0.005)
    assert process.returncode == expected, f"exit {process.returncode}"
    return peak_kib / 1024


def start_up() -> list[Figure]:
    """The two commands that must be light; compiled, as a package installs them."""
    compileall.compile_dir(ROOT / "agent", quiet=1)
    with scratch() as base:
        device = Field(base).device(base / "device")
        device.run()
        words = {
            "usb-update --help": [sys.executable, "-m", "agent", "--help"],
            "aklite-offline run, nothing pending": device.argv("run"),
        }
        return [_start_up(what, argv) for what, argv in words.items()]


def _start_up(what: str, argv: list[str]) -> Figure:
    run = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    took = [timed(lambda: subprocess.run(argv, check=False, **run)) for _ in range(2 * ROUNDS)]  # type: ignore[call-overload]
    median = statistics.median(took)
    return Figure(what, f"{median:.3f} s", "", f"{median:.3f} s", "< 0.2 s", median < 0.2)


# --- trust -----------------------------------------------------------------------------


def verification() -> list[Figure]:
    """A bundle whose targets.json has so many Targets."""
    return [_verification(count) for count in (500, 1000, 2000, 4000)]


def _verification(count: int) -> Figure:
    targets = {f"board-lmp-{n}": target_entry(version=str(n)) for n in range(count)}
    signed = bundle(targets=targets, listed=("board-lmp-1",))

    def work() -> None:
        verify_bundle(signed.raw, signed.provisioned, device_type=None, device_tags=(), now=NOW)

    work()
    median = statistics.median(timed(work) for _ in range(2 * ROUNDS)) * 1000
    bound = "< 150 ms" if count == 2000 else "linear"
    met = median < 150 if count == 2000 else None
    return Figure(f"verify {count} Targets", f"{median:.0f} ms", "", f"{median:.0f} ms", bound, met)


# --- the idle service ------------------------------------------------------------------


def idle() -> list[Figure]:
    """`usb-update watch` with nothing to do, looked at for a minute."""
    with scratch() as base:
        device = Field(base).device(base / "device")
        return _idle(device)


def _idle(device: FieldDevice) -> list[Figure]:
    argv = [sys.executable, "-m", "agent", "watch", "-c", str(device.config)]
    process = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        time.sleep(5)
        before = _status(process.pid)
        time.sleep(60)
        after = _status(process.pid)
    finally:
        process.terminate()
        process.wait(30)
    resident = int(after["VmRSS"].split()[0]) / 1024
    wakes = int(after["voluntary_ctxt_switches"]) - int(before["voluntary_ctxt_switches"])
    return [
        Figure("idle service, resident", f"{resident:.1f} MiB", "", f"{resident:.1f} MiB",
               "< 25 MiB", resident < 25),
        Figure("idle service, wake-ups in 60 s", str(wakes), "", str(wakes), "0", wakes == 0),
    ]  # fmt: skip


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


# --- from the port to a decision --------------------------------------------------------


def decision() -> list[Figure]:
    """The real service and a real udev: from plugging a stick in to the question it asks."""
    with scratch() as base:
        field = Field(base)
        bundle_path = field.bundle(2)
        plain = make_stick(base / "one.img", f"{STICK_UUID}1", bundle_path)
        crowd = make_stick(
            base / "crowd.img", f"{STICK_UUID}2", _crowd(base / "crowd", bundle_path),
            size_bytes=1024 * MIB,
        )  # fmt: skip
        device = field.device(base / "device")
        device.configure("usb_update", consent="confirm")
        with udevd.running(), serving(device):
            return [
                _decision(plain, "a stick with one bundle", 1.0),
                _decision(crowd, "50 bundles among 20,000 other files", 3.0),
            ]


def _crowd(directory: Path, bundle_path: Path) -> Path:
    """Fill a stick's ``usb-update`` directory with bundles, and others with photos."""
    root = directory / "usb-update"
    for number in range(50):
        shutil.copytree(bundle_path, root / f"bundle-{number:02}", symlinks=True)
    for number in range(20_000):
        photo = root / f"photos-{number // 1000:02}" / f"{number}.jpg"
        photo.parent.mkdir(exist_ok=True)
        photo.touch()
    return root


def _decision(image: Path, what: str, bound_s: float) -> Figure:
    taken = [_asked_after(image) for _ in range(ROUNDS)]
    median = statistics.median(taken)
    return Figure(
        f"plugged in to decided, {what}", f"{median:.2f} s", "", f"{median:.2f} s",
        f"< {bound_s:g} s", median < bound_s,
    )  # fmt: skip


def _asked_after(image: Path) -> float:
    started = time.perf_counter()
    stick = attach(image)
    until(lambda: status()["stage"] == "waiting-for-confirmation", "the question")
    took = time.perf_counter() - started
    pull_out(stick, cut=False)
    until(lambda: status()["stage"] == "idle", "the stick is let go")
    detach(stick)
    udevd.settle()
    return took


# --- the page --------------------------------------------------------------------------

EVERY: dict[str, Callable[[], list[Figure]]] = {
    "ostree": pull_and_stage,
    "apps": apps,
    "memory": memory,
    "verification": verification,
    "start-up": start_up,
    "idle": idle,
    "decision": decision,
    **authoring.EVERY,
}


def main() -> None:
    journal.set_up(5)
    names = sys.argv[1:] or list(EVERY)
    figures: list[Figure] = []
    for name in names:
        print(f"{name} ...", flush=True)
        figures += EVERY[name]()
        print("\n".join(figure.row() for figure in figures[-4:]), flush=True)
    if not sys.argv[1:]:
        _write(figures)


def _write(figures: list[Figure]) -> None:
    ostree_version = ostree("--version").splitlines()[1].strip()
    head = (
        f"Taken {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPUs, Linux {platform.release()}, "
        f"Python {platform.python_version()}, ostree {ostree_version}.\n\n"
        "| what | ours | bare | value | bound | met |\n|---|---|---|---|---|---|\n"
    )
    text = PAGE.read_text()
    before, _, rest = text.partition("<!-- figures -->\n")
    after = rest.partition("<!-- end -->")[2]
    table = "\n".join(figure.row() for figure in figures)
    PAGE.write_text(f"{before}<!-- figures -->\n{head}{table}\n<!-- end -->{after}")


if __name__ == "__main__":
    main()
