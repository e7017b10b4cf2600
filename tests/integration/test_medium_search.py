"""Which bundles a stick holds."""

import os

import pytest
from structlog.testing import capture_logs

from agent.adapters.medium import find_bundles


def bundle(path):
    for part in ("tuf", "ostree_repo/objects/aa", "apps/apps"):
        (path / part).mkdir(parents=True)
    return path


def test_a_stick_without_bundles_has_none(tmp_path):
    (tmp_path / "DCIM").mkdir()

    assert find_bundles(tmp_path) == ()


def test_a_mountpoint_that_is_gone_has_none(tmp_path):
    assert find_bundles(tmp_path / "gone") == ()


def test_bundles_are_found_at_the_root_and_two_levels_below(tmp_path):
    expected = (
        bundle(tmp_path),
        bundle(tmp_path / "b"),
        bundle(tmp_path / "usb-update"),
        bundle(tmp_path / "x/y"),
    )

    assert find_bundles(tmp_path) == expected


def test_a_third_level_is_too_deep(tmp_path):
    bundle(tmp_path / "a/b/c")

    assert find_bundles(tmp_path) == ()


def test_bundles_lie_side_by_side(tmp_path):
    expected = tuple(bundle(tmp_path / f"usb-update/site{number:02}") for number in range(12))

    assert find_bundles(tmp_path) == expected


@pytest.mark.parametrize(
    "name",
    ["._a", ".Trashes", ".Trash-1000", "System Volume Information", "lost+found", "$RECYCLE.BIN"],
)
def test_what_systems_leave_on_sticks_is_passed_over(tmp_path, name):
    bundle(tmp_path / name)
    bundle(tmp_path / name / "501")

    assert find_bundles(tmp_path) == ()


def test_no_link_is_followed(tmp_path):
    outside = bundle(tmp_path / "outside")
    stick = tmp_path / "stick"
    (stick / "a").mkdir(parents=True)
    (stick / "link").symlink_to(outside)
    (stick / "a/tuf").symlink_to(outside / "tuf")

    assert find_bundles(stick) == ()


def test_special_files_are_passed_over(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a/tuf")

    assert find_bundles(tmp_path) == ()


def test_no_bundle_is_entered(tmp_path):
    inner = bundle(tmp_path / "a") / "apps"
    (inner / "tuf").mkdir()

    assert find_bundles(tmp_path) == (tmp_path / "a",)


def test_the_parts_of_a_bundle_at_the_root_are_not_entered(tmp_path):
    bundle(tmp_path)
    (tmp_path / "apps/tuf").mkdir()

    assert find_bundles(tmp_path) == (tmp_path,)


def test_too_many_files_end_the_search_and_keep_what_was_found(tmp_path):
    above = bundle(tmp_path / "above")
    for number in range(50):
        (tmp_path / f"zz{number}").mkdir()
        (tmp_path / f"zz{number}/file").touch()

    with capture_logs() as logs:
        found = find_bundles(tmp_path, entries=70)

    assert found == (above,)
    assert logs[0]["event"] == "search.cut_short"


def test_a_stick_that_takes_too_long_is_left(tmp_path):
    bundle(tmp_path / "a")
    ticks = iter(range(0, 1000, 6))

    with capture_logs() as logs:
        found = find_bundles(tmp_path, time_s=10, clock=lambda: next(ticks))

    assert found == ()
    assert logs[0]["event"] == "search.cut_short"


def test_a_directory_of_photos_is_listed_once_and_hides_no_bundle(tmp_path):
    """The entries of each level are paid for once: 20 000 photos leave room for more."""
    photos = tmp_path / "DCIM"
    photos.mkdir()
    for number in range(2000):
        (photos / f"{number}.jpg").touch()
    expected = tuple(bundle(tmp_path / f"site{number:02}") for number in range(50))

    assert find_bundles(tmp_path, entries=2 * 51 + 2000 + 2) == expected


def test_packs_count_where_bundles_do(tmp_path):
    places = ("a.usbu", "usb-update/B.USBU", "one/c.usbu", "one/two/too-deep.usbu")
    others = (".hidden.usbu", "._a.usbu", ".x/d.usbu", "usb-update-results/e.usbu", "usbu")
    for name in (*places, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "directory.usbu").mkdir()
    (tmp_path / "link.usbu").symlink_to("a.usbu")

    assert set(find_bundles(tmp_path)) == {tmp_path / name for name in places[:3]}


def test_a_pack_beside_a_bundle_is_found_with_it(tmp_path):
    (tmp_path / "tuf").mkdir()
    (tmp_path / "a.usbu").touch()
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps/b.usbu").touch()

    assert find_bundles(tmp_path) == (tmp_path, tmp_path / "a.usbu")


def test_a_heap_of_packs_hides_no_bundle_and_costs_no_more_than_32(tmp_path):
    for number in range(100):
        (tmp_path / f"{number:03}.usbu").touch()
    (tmp_path / "z/tuf").mkdir(parents=True)
    with capture_logs() as logs:
        found = find_bundles(tmp_path)

    assert len(found) == 33
    assert found[-1] == tmp_path / "z"
    assert [entry["event"] for entry in logs] == ["search.packs_left_out"]
