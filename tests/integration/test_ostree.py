"""Real ``ostree`` against good, bad and vanishing sticks: 50, the device as it was, try again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.adapters.ostree import Deadlines, OstreeSysroot
from agent.core.errors import NoSpaceError, PullError, StageError, StoreError, SysrootError
from tests.ostree_device import (
    KERNEL_ARGUMENTS,
    archive_repo,
    content_objects,
    make_device,
    object_path,
    ostree,
    run,
)

pytestmark = pytest.mark.needs_ostree

FILES = {f"usr/share/file{number}": f"content {number}\n".encode() * 50 for number in range(20)}
QUICK = Deadlines(standstill=1.0)


def nothing(_step, _done, _total):
    """Show nothing."""


def opened(device, **options):
    return OstreeSysroot(
        device.sysroot,
        os=device.os,
        booted=False,
        reboot_awaited=lambda: device.awaiting_reboot,
        **options,
    )


@pytest.fixture
def device(tmp_path):
    return make_device(tmp_path / "device")


@pytest.fixture
def commit(device):
    return device.new_commit(FILES)


@pytest.fixture
def stick(device, commit, tmp_path):
    """The OSTree repository of a stick that holds ``commit``."""
    return device.bundle_repo(tmp_path / "stick/ostree_repo", commit)


def state_of(device):
    """Return what a failed pull must not change."""
    return device.deployed(), ostree("refs", "--repo", device.repo), _text(device.repo / "config")


def _text(path):
    return path.read_text()


@contextmanager
def nothing_changes(device, commit):
    """The device is as it was, and the same commit from a good stick gets in afterwards."""
    before = state_of(device)
    yield
    assert state_of(device) == before
    assert not opened(device).has_commit(commit)
    sysroot = opened(device)
    sysroot.pull(device.origin, commit, nothing)
    sysroot.stage(commit)
    assert sysroot.staged_commit() == commit
    ostree("fsck", "--quiet", "--repo", device.repo)


def refuse(device, stick, commit, error=PullError, **options):
    with nothing_changes(device, commit), pytest.raises(error) as caught:
        opened(device, **options).pull(stick, commit, nothing)
    return caught.value


def file_object(stick):
    """Return one of the file objects that hold FILES, not one the device has already."""
    return max(content_objects(stick), key=lambda path: path.stat().st_size)


# --- a stick that is wrong from the start --------------------------------------------------


def corrupt(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path):
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [corrupt, truncate, empty, remove, replace_by_fifo, replace_by_link, replace_by_directory],
)
def test_a_spoilt_file_object_is_refused(device, stick, commit, spoil):
    spoil(file_object(stick))

    refuse(device, stick, commit)


@pytest.mark.parametrize("spoil", [corrupt, truncate, empty, remove, replace_by_fifo])
def test_a_spoilt_commit_object_is_refused(device, stick, commit, spoil):
    spoil(object_path(stick, commit, "commit"))

    refuse(device, stick, commit)


@pytest.mark.parametrize("spoil", [corrupt, truncate, empty, remove])
def test_a_spoilt_directory_object_is_refused(device, stick, commit, spoil):
    present = {path.name for path in (device.repo / "objects").glob("*/*.dirtree")}
    new = [p for p in (stick / "objects").glob("*/*.dirtree") if p.name not in present]
    spoil(min(new))

    refuse(device, stick, commit)


def test_a_swapped_file_object_is_refused(device, stick, commit):
    """Without ``--untrusted`` it would get in with exit status 0 (peers-and-pains §0)."""
    first, second, *_ = sorted(content_objects(stick), key=lambda p: -p.stat().st_size)
    shutil.copyfile(first, second)

    refuse(device, stick, commit)


def test_another_commit_under_the_name_of_ours_is_refused(device, stick, commit):
    other = device.new_commit({"usr/bin/backdoor": b"x"})
    ostree("pull-local", "--repo", stick, device.origin, other)
    shutil.copyfile(object_path(stick, other, "commit"), object_path(stick, commit, "commit"))

    refuse(device, stick, commit)


def test_objects_that_link_out_of_the_repository_are_refused(device, stick, commit, tmp_path):
    (stick / "objects").rename(tmp_path / "elsewhere")
    (stick / "objects").symlink_to(tmp_path / "elsewhere")

    refuse(device, stick, commit)


def test_a_directory_of_objects_that_links_out_is_refused(device, stick, commit, tmp_path):
    shelf = file_object(stick).parent
    shelf.rename(tmp_path / "elsewhere")
    shelf.symlink_to(tmp_path / "elsewhere")

    error = refuse(device, stick, commit)

    assert shelf.name in error.message


def test_a_repository_that_is_a_link_is_refused(device, stick, commit, tmp_path):
    (tmp_path / "link").symlink_to(stick)

    refuse(device, tmp_path / "link", commit)


def test_a_fifo_beside_the_objects_is_refused(device, stick, commit):
    os.mkfifo(stick / "objects/aa")

    refuse(device, stick, commit)


@pytest.mark.parametrize("spoil", [replace_by_fifo, replace_by_link, replace_by_directory, remove])
def test_a_config_that_is_no_regular_file_is_refused(device, stick, commit, spoil):
    spoil(stick / "config")

    refuse(device, stick, commit)


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"\xff\xfe\x00garbage",
        b"no section\n",
        b"[core",
        b"[core]\nmode=bare\n",
        b"[core]\nmode=bare-split-xattrs\n",
        b"[core]\nmode=" + b"x" * 100_000,
        b"#" * 70_000,
        b"[core]\nrepo_version=1\n",
    ],
)
def test_a_config_of_garbage_is_refused(device, stick, commit, config):
    (stick / "config").write_bytes(config)

    refuse(device, stick, commit)


def test_there_is_no_repository(device, commit, tmp_path):
    refuse(device, tmp_path / "nowhere", commit)


def test_what_the_sticks_config_says_beside_the_mode_is_not_heard(device, stick, commit, tmp_path):
    """``ostree`` reads a config of ours: no parent repository, no remote of the stick."""
    outside = archive_repo(tmp_path / "outside")
    ostree("pull-local", "--repo", outside, device.origin, commit)
    spoilt = file_object(stick)
    spoilt.unlink()
    with (stick / "config").open("a") as config:
        config.write(f'parent={outside}\n[remote "x"]\nurl=file://{outside}\n')

    refuse(device, stick, commit)


# --- what a good stick may hold besides ------------------------------------------------------


def test_a_hostile_summary_refs_and_deltas_are_not_looked_at(device, stick, commit):
    for name in ("summary", "refs/heads/main", "deltas", "state", "tmp/x"):
        path = stick / name
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)

    opened(device).pull(stick, commit, nothing)

    assert opened(device).has_commit(commit)


@pytest.mark.parametrize("mode", ["archive", "bare-user", "bare-user-only"])
def test_every_mode_a_stick_can_have_is_read(device, commit, tmp_path, mode):
    repo = tmp_path / "stick"
    ostree("init", "--repo", repo, "--mode", mode)
    ostree("pull-local", "--repo", repo, device.origin, commit)

    opened(device).pull(repo, commit, nothing)

    assert opened(device).has_commit(commit)
    ostree("fsck", "--quiet", "--repo", device.repo)


def test_a_path_of_odd_characters_is_no_url(device, commit, tmp_path):
    repo = device.bundle_repo(tmp_path / "a b%20c;é#?'\"/ostree_repo", commit)

    opened(device).pull(repo, commit, nothing)

    assert opened(device).has_commit(commit)


def test_a_pull_leaves_no_remote_and_no_ref(device, stick, commit):
    before = state_of(device)

    opened(device).pull(stick, commit, nothing)

    assert state_of(device) == before


def test_staging_leaves_no_ref_of_ours(device, stick, commit):
    sysroot = opened(device)
    sysroot.pull(stick, commit, nothing)
    sysroot.stage(commit)
    newer = device.new_commit()
    sysroot.pull(device.origin, newer, nothing)

    sysroot.stage(newer)

    assert "usb-update" not in ostree("refs", "--repo", device.repo)
    assert "usb-update" not in ostree("refs", "--repo", device.repo, "--list", "usb-update")


# --- a stick that changes after it was looked at --------------------------------------------


@pytest.fixture
def before_ostree(tmp_path, monkeypatch):
    """Return a function that lets shell commands run between our look and ``ostree pull``."""
    real = shutil.which("ostree")

    def install(commands):
        programs = tmp_path / "programs"
        programs.mkdir()
        script = f'#!/bin/sh\nif [ "$1" = pull-local ]; then\n{commands}\nfi\nexec {real} "$@"\n'
        (programs / "ostree").write_text(script)
        (programs / "ostree").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        return lambda: monkeypatch.setenv("PATH", os.environ["PATH"].partition(":")[2])

    return install


def test_an_object_swapped_for_a_fifo_while_we_pull_is_given_up(
    device, stick, commit, before_ostree
):
    victim = file_object(stick)
    restore = before_ostree(f"rm {victim}; mkfifo {victim}")
    before = state_of(device)

    with pytest.raises(PullError, match="nothing was read"):
        opened(device, deadlines=QUICK).pull(stick, commit, nothing)

    restore()
    with nothing_changes(device, commit):
        assert state_of(device) == before


def test_a_pull_that_takes_too_long_is_given_up(device, stick, commit, before_ostree):
    restore = before_ostree("sleep 60")

    with pytest.raises(PullError):
        opened(device, deadlines=Deadlines(pull=0.3)).pull(stick, commit, nothing)

    restore()
    with nothing_changes(device, commit):
        assert not opened(device).has_commit(commit)


def test_a_repository_swapped_for_a_link_while_we_pull_is_not_followed(
    device, stick, commit, before_ostree, tmp_path
):
    """The link leads to a copy without objects; what we opened has them all."""
    (tmp_path / "outside/objects").mkdir(parents=True)
    before_ostree(f"mv {stick} {stick}.moved; ln -s {tmp_path}/outside {stick}")

    opened(device).pull(stick, commit, nothing)

    assert opened(device).has_commit(commit)


def test_objects_deleted_while_we_pull_are_missed(device, stick, commit, before_ostree):
    restore = before_ostree(f"rm {file_object(stick)}")

    with pytest.raises(PullError):
        opened(device).pull(stick, commit, nothing)

    restore()
    with nothing_changes(device, commit):
        assert not opened(device).has_commit(commit)


@pytest.fixture
def mounts(tmp_path):
    """Return a function that mounts, and take everything down again."""
    mounted = []

    def mount(*arguments):
        point = tmp_path / f"mount{len(mounted)}"
        point.mkdir()
        run("mount", *arguments, point)
        mounted.append(point)
        return point

    yield mount
    for point in reversed(mounted):
        run("umount", point)


@pytest.mark.needs_root
def test_a_stick_pulled_out_while_we_pull_is_missed(device, stick, commit, before_ostree, mounts):
    """The file behind the loop device goes away, so reading fails with EIO as on a real stick."""
    image = stick.parent / "stick.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ext4", "-q", "-d", stick, image)
    mounted = mounts("-t", "ext4", "-o", "ro,loop,noload", image)
    restore = before_ostree(f"truncate -s 0 {image}; echo 3 > /proc/sys/vm/drop_caches")

    with pytest.raises(PullError):
        opened(device).pull(mounted, commit, nothing)

    restore()
    with nothing_changes(device, commit):
        assert not opened(device).has_commit(commit)


@pytest.mark.needs_root
def test_a_stick_unmounted_lazily_while_we_pull_is_read_to_its_end(
    device, stick, commit, before_ostree, tmp_path
):
    """An automounter's lazy unmount takes the path away, not what we hold open."""
    point = tmp_path / "mount"
    point.mkdir()
    run("mount", "--bind", stick, point)
    before_ostree(f"umount -l {point}")

    opened(device).pull(point, commit, nothing)

    assert opened(device).has_commit(commit)
    assert not os.path.ismount(point)


# --- the device's side -----------------------------------------------------------------------


@pytest.fixture
def small_device(mounts):
    """A device with 24 MiB, of which libostree keeps 3 per cent."""
    return make_device(mounts("-t", "tmpfs", "-o", "size=24m", "tmpfs") / "device")


def free_bytes(path):
    st = os.statvfs(path)
    return st.f_bsize * st.f_bfree


def big_stick(device, tmp_path, size=30 << 20):
    """A commit that is larger than the device, on a stick elsewhere."""
    device.origin = archive_repo(tmp_path / "origin")
    commit = device.new_commit({f"usr/share/{n}": os.urandom(size // 8) for n in range(8)})
    return device.bundle_repo(tmp_path / "stick", commit), commit


@pytest.mark.needs_root
@pytest.mark.parametrize("percent", [3, 0])
def test_a_full_disk_ends_the_pull_and_gives_the_space_back(small_device, tmp_path, percent):
    """With 3 per cent libostree stops itself, with 0 the kernel does (ENOSPC)."""
    device = small_device
    stick, commit = big_stick(device, tmp_path)
    ostree("config", "--repo", device.repo, "set", "core.min-free-space-percent", str(percent))
    before, free = state_of(device), free_bytes(device.repo)

    with pytest.raises(NoSpaceError, match=r"available: [0-9]+B at .*reserved: "):
        opened(device).pull(stick, commit, nothing)

    assert state_of(device) == before
    assert free_bytes(device.repo) > free - (1 << 20)
    run("mount", "-o", "remount,size=200m", device.sysroot.parents[1])
    opened(device).pull(stick, commit, nothing)
    opened(device).stage(commit)
    assert device.deployed()[0] == commit


@pytest.mark.needs_root
def test_without_space_nothing_is_read(small_device, tmp_path):
    device = small_device
    commit = device.new_commit()
    (device.sysroot.parent / "ballast").write_bytes(bytes(10 << 20))
    reader = tmp_path / "unread"

    with pytest.raises(NoSpaceError, match=r"available: 0B at .*60% by core"):
        opened(device, reserved_percent=60).pull(reader, commit, nothing)
    (device.sysroot.parent / "ballast").unlink()


def test_the_configured_reserve_is_left_to_libostree(device, stick, commit):
    opened(device, reserved_percent=7).pull(stick, commit, nothing)

    kept = ostree("config", "--repo", device.repo, "get", "core.min-free-space-percent")
    assert kept.strip() == "7"


def test_a_device_repository_of_garbage_is_the_devices_fault(device, stick, commit):
    good = (device.repo / "config").read_bytes()
    (device.repo / "config").write_bytes(b"\xff\x00")

    with pytest.raises(StoreError):
        opened(device).pull(stick, commit, nothing)

    (device.repo / "config").write_bytes(good)
    opened(device).pull(stick, commit, nothing)


def test_a_device_repository_that_takes_no_files_is_the_devices_fault(device, stick, commit):
    shutil.rmtree(device.repo / "tmp")
    (device.repo / "tmp").symlink_to("/nowhere")

    with pytest.raises(StoreError):
        opened(device).pull(stick, commit, nothing)

    (device.repo / "tmp").unlink()
    (device.repo / "tmp").mkdir()
    opened(device).pull(stick, commit, nothing)


def test_a_full_temporary_directory_is_the_devices_fault(device, stick, commit, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")

    with pytest.raises(StoreError, match="temporary directory"):
        opened(device).pull(stick, commit, nothing)


PULL = """
import sys
from pathlib import Path
from agent.adapters.ostree import OstreeSysroot
sysroot, stick, commit = sys.argv[1:]
OstreeSysroot(Path(sysroot), os="lmp", booted=False).pull(Path(stick), commit, lambda *_: None)
"""


def staged_objects(device):
    return len(list((device.repo / "tmp").glob("staging-*/*/*")))


def test_after_a_kill_in_the_middle_the_next_attempt_works(device, tmp_path):
    many = {f"usr/share/many/{n}": os.urandom(4000) for n in range(3000)}
    commit = device.new_commit(many)
    stick = device.bundle_repo(tmp_path / "stick", commit)
    arguments = [str(device.sysroot), str(stick), commit]
    child = subprocess.Popen([sys.executable, "-c", PULL, *arguments])
    give_up = time.monotonic() + 30
    while staged_objects(device) < 50 and time.monotonic() < give_up:
        time.sleep(0.005)
    workers = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()

    for pid in (child.pid, *map(int, workers)):
        os.kill(pid, signal.SIGKILL)
    child.wait()

    with nothing_changes(device, commit):
        assert staged_objects(device) >= 50


def test_a_commit_that_is_here_in_part_is_fetched_whole(device, stick, commit):
    ostree("pull-local", "--repo", device.repo, "--commit-metadata-only", device.origin, commit)
    before = opened(device).has_commit(commit)

    opened(device).pull(stick, commit, nothing)

    assert (before, opened(device).has_commit(commit)) == (False, True)
    ostree("fsck", "--quiet", "--repo", device.repo)


def test_a_swapped_object_that_someone_trusted_is_mended(device, stick, commit, tmp_path):
    """A program that pulls without ``--untrusted`` brought it; we do not install it as it is."""
    bad = tmp_path / "bad"
    shutil.copytree(stick, bad)
    first, second, *_ = sorted(content_objects(bad), key=lambda p: -p.stat().st_size)
    shutil.copyfile(first, second)
    ostree("pull-local", "--repo", device.repo, bad, commit)
    present = opened(device).has_commit(commit)

    opened(device).pull(stick, commit, nothing)

    assert present
    ostree("fsck", "--quiet", "--repo", device.repo)


# --- progress, staging, the sysroot ----------------------------------------------------------


def test_progress_counts_bytes_of_the_stick_and_never_goes_back(device, tmp_path):
    many = {f"usr/share/many/{n}": os.urandom(8000) for n in range(2500)}
    commit = device.new_commit(many)
    stick = device.bundle_repo(tmp_path / "stick", commit)
    seen = []

    opened(device).pull(stick, commit, lambda *step: seen.append(step))

    done = [bytes_done for _, bytes_done, _ in seen]
    totals = {total for _, _, total in seen}
    assert done == sorted(done)
    assert done[-1] == max(totals)
    assert len(totals) == 1
    assert 20_000_000 < max(totals) < 22_000_000


def test_staging_keeps_the_kernel_arguments_and_names_the_commit_as_origin(device, stick, commit):
    sysroot = opened(device)
    sysroot.pull(stick, commit, nothing)

    sysroot.stage(commit)

    entries = (device.sysroot / "boot/loader/entries").glob("*.conf")
    for entry in entries:
        assert " ".join(KERNEL_ARGUMENTS) in entry.read_text()
    origin = next((device.sysroot / f"ostree/deploy/{device.os}/deploy").glob(f"{commit}*.origin"))
    assert origin.read_text() == f"[origin]\nrefspec={commit}\n"


def test_staging_that_fails_leaves_no_half_made_deployment(device):
    """A commit without a kernel cannot be deployed."""
    source = device.origin
    tree = device.sysroot.parent / "tree"
    (tree / "usr").mkdir(parents=True)
    commit = ostree("commit", "--repo", source, "--orphan", f"--tree=dir={tree}").strip()
    sysroot = opened(device)
    sysroot.pull(source, commit, nothing)

    with pytest.raises(StageError):
        sysroot.stage(commit)

    deployments = device.sysroot / f"ostree/deploy/{device.os}/deploy"
    assert not list(deployments.glob(f"{commit}*"))
    assert device.deployed() == [device.commits[0]]
    assert sysroot.staged_commit() is None


def test_a_second_update_drops_the_version_before_last(device):
    sysroot = opened(device)
    second, third = device.new_commit(), device.new_commit()
    sysroot.pull(device.origin, second, nothing)
    sysroot.stage(second)
    rebooted = opened(device)
    rebooted.pull(device.origin, third, nothing)

    rebooted.stage(third)

    assert device.deployed() == [third, second]
    assert not rebooted.has_commit(device.commits[0])


def test_another_os_in_the_sysroot_is_left_alone(device, stick, commit):
    ostree("admin", "os-init", "--sysroot", device.sysroot, "rescue")
    first = device.commits[0]
    ostree("admin", "deploy", "--sysroot", device.sysroot, "--os", "rescue", first)
    sysroot = opened(device)
    sysroot.pull(stick, commit, nothing)

    sysroot.stage(commit)
    sysroot.unstage(commit)

    assert sysroot.booted_commit() == first
    assert len(device.deployed()) == 2


def test_a_directory_that_is_no_sysroot_says_so(tmp_path):
    with pytest.raises(SysrootError, match="cannot be read"):
        OstreeSysroot(tmp_path, os="lmp", booted=False).booted_commit()


def test_a_sysroot_that_is_not_booted_has_no_booted_deployment(device):
    with pytest.raises(SysrootError, match="is booted"):
        OstreeSysroot(device.sysroot, os=device.os, booted=True).booted_commit()


def test_an_os_that_was_never_deployed_says_so(device):
    with pytest.raises(SysrootError, match="no deployment of os 'other'"):
        OstreeSysroot(device.sysroot, os="other", booted=False).booted_commit()


def test_without_ostree_the_sysroot_cannot_be_read(device, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(SysrootError, match="No such file"):
        opened(device).booted_commit()


def test_without_a_name_the_os_is_the_one_that_runs(tmp_path: Path) -> None:
    device = make_device(tmp_path, os="poky")
    sysroot = OstreeSysroot(device.sysroot, os="", booted=False)
    new = device.new_commit()
    sysroot.pull(device.bundle_repo(tmp_path / "stick", new), new, lambda *_: None)

    sysroot.stage(new)

    assert new == sysroot.staged_commit()
    assert device.deployed() == [new, device.commits[0]]


def test_the_staged_deployment_has_a_directory(tmp_path: Path) -> None:
    device = make_device(tmp_path)
    sysroot = OstreeSysroot(device.sysroot, os=device.os, booted=False)
    new = device.new_commit()
    sysroot.pull(device.bundle_repo(tmp_path / "stick", new), new, lambda *_: None)
    before = sysroot.staged_directory()

    sysroot.stage(new)

    directory = sysroot.staged_directory()
    assert before is None
    assert directory is not None
    assert (directory / "usr/share/version").read_text() == "2\n"
