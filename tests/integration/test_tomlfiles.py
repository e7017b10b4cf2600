"""Which configuration files are read, and which of them wins."""

from pathlib import Path

import pytest

from agent.adapters import tomlfiles
from agent.core.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def tags(*places: Path) -> tuple[str, ...] | None:
    return tomlfiles.load(places).settings.pacman.tags


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device whose default places lie below a directory of the test."""
    places = tuple(tmp_path / place.relative_to("/") for place in tomlfiles.DEFAULT_PLACES)
    monkeypatch.setattr(tomlfiles, "DEFAULT_PLACES", places)
    return tmp_path


def test_a_device_without_files_has_defaults(device: Path) -> None:
    assert not (device / "var").exists()
    assert tags() is None


def test_every_default_place_is_read(device: Path) -> None:
    write(device / "usr/lib/sota/conf.d/40-hw.toml", '[provision]\nprimary_ecu_hardware_id="a"')
    write(device / "var/sota/sota.toml", '[pacman]\ntags="b"')
    write(device / "etc/sota/conf.d/z-os.toml", '[pacman]\nos="c"')

    settings = tomlfiles.load().settings

    assert settings.provision.primary_ecu_hardware_id == "a"
    assert settings.pacman.tags == ("b",)
    assert settings.pacman.os == "c"


def test_a_file_masks_an_earlier_one_of_the_same_name_wholly(device: Path) -> None:
    write(device / "usr/lib/sota/conf.d/40-x.toml", '[pacman]\ntags="a"\nos="lmp"')
    write(device / "etc/sota/conf.d/40-x.toml", '[pacman]\ntags="b"')

    settings = tomlfiles.load().settings

    assert settings.pacman.tags == ("b",)
    assert settings.pacman.os == ""


def test_names_decide_the_order_not_directories(device: Path) -> None:
    write(device / "etc/sota/conf.d/30-tags.toml", '[pacman]\ntags="early"')
    write(device / "var/sota/sota.toml", '[pacman]\ntags="registered"')
    assert tags() == ("registered",)

    write(device / "usr/lib/sota/conf.d/z-tags.toml", '[pacman]\ntags="late"')

    assert tags() == ("late",)


def test_upper_case_names_come_first(tmp_path: Path) -> None:
    write(tmp_path / "Z.toml", '[pacman]\ntags="upper"')
    write(tmp_path / "a.toml", '[pacman]\ntags="lower"')

    assert tags(tmp_path) == ("lower",)


def test_the_source_of_a_setting_is_its_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", '[pacman]\ntags="x"')

    entries = tomlfiles.load([file]).entries

    assert [str(file)] == [entry.source for entry in entries if entry.key == "tags"]


def test_given_places_replace_the_default_ones(device: Path) -> None:
    write(device / "var/sota/sota.toml", '[pacman]\ntags="default"')
    mine = write(device / "mine.conf", '[pacman]\nos="lmp"')

    assert tags(mine) is None


def test_files_and_directories_may_be_given_together(tmp_path: Path) -> None:
    file = write(tmp_path / "b.toml", '[pacman]\ntags="file"')
    write(tmp_path / "d" / "a.toml", '[pacman]\ntags="directory"\nos="lmp"')
    write(tmp_path / "d" / "ignored.conf", "not even TOML")
    write(tmp_path / "d" / "deep" / "z.toml", '[pacman]\ntags="deep"')

    settings = tomlfiles.load([file, tmp_path / "d"]).settings

    assert settings.pacman.tags == ("file",)
    assert settings.pacman.os == "lmp"


def test_a_given_place_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        tomlfiles.load([tmp_path / "none.toml"])


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[pacman]\ntags = main\n", "line 2"),
        ("[pacman\n", "line 1"),
        ('[pacman]\ntags="a"\ntags="b"\n', "line 3"),
        ("[pacman]\n[pacman]\n", "line 2"),
        ("; comment\n", "line 1"),
        ("[logger]\nloglevel = " + "9" * 5000, "digits"),
    ],
    ids=["bare", "open", "twice", "table-twice", "semicolon", "digits"],
)
def test_a_syntax_error_names_file_and_line(tmp_path: Path, text: str, where: str) -> None:
    file = write(tmp_path / "a.toml", text)

    with pytest.raises(ConfigError) as caught:
        tomlfiles.load([file])

    assert str(file) in caught.value.message
    assert where in caught.value.message


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[pacman]\nos = '\xff'", "not UTF-8 at byte 15"),
        (b"#" * (tomlfiles.LIMIT_BYTES + 1), "longer than"),
        (b"a = " + b"[" * 100_000, "not TOML"),
        (b"[logger]\nloglevel = 0x" + b"f" * 5000, "found a huge number"),
    ],
    ids=["latin", "long", "deep", "huge"],
)
def test_what_is_no_toml_is_told(tmp_path: Path, data: bytes, why: str) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(data)

    with pytest.raises(ConfigError, match=why):
        tomlfiles.load([file])


def test_a_directory_named_like_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.toml").mkdir()

    with pytest.raises(ConfigError, match="cannot be read"):
        tomlfiles.load([tmp_path])
