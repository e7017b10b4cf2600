"""The page in a real browser: it draws, and asks nobody for anything."""

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from agent.core.fleet import Reading, merge
from agent.core.outcome import InstallExit
from agent.faces.report_page import fleet_page
from tests.factory.records import NOON, circumstances, record

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTH, HEIGHT = 900, 700
INK = {"done": (0x1A, 0x7F, 0x4B), "refused": (0x82, 0x50, 0xDF), "failed": (0xCF, 0x22, 0x2E)}
DARK_PAGE = (0x12, 0x16, 0x1B)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    exits = (InstallExit.UP_TO_DATE, InstallExit.METADATA_EXPIRED, InstallExit.FAILED)
    records = tuple(
        record(exits[n % 3], sequence=n, around=circumstances(attempt=str(n)), duration_s=20.0 * n)
        for n in range(1, 41)
    )
    path = tmp_path_factory.mktemp("page") / "fleet.html"
    path.write_text(fleet_page(merge([Reading("x", records)]), made_utc=NOON))
    return path


def picture(page: Path, directory: Path, *flags: str) -> list[bytes]:
    """Return the rows of a screenshot, three bytes a pixel."""
    shot = directory / "shot.png"
    subprocess.run(
        [
            str(CHROMIUM),
            *FLAGS,
            *flags,
            f"--user-data-dir={directory / 'profile'}",
            f"--window-size={WIDTH},{HEIGHT}",
            f"--screenshot={shot}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=100,
    )
    return rows_of_png(shot.read_bytes())


def rows_of_png(data: bytes) -> list[bytes]:
    """Decode an 8-bit RGB or RGBA picture without interlace; all that is needed here."""
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert depth == 8
    size = {2: 3, 6: 4}[kind]
    raw, start = b"", 8
    while start < len(data):
        (length,) = struct.unpack(">I", data[start : start + 4])
        if data[start + 4 : start + 8] == b"IDAT":
            raw += data[start + 8 : start + 8 + length]
        start += 12 + length
    rows = unfiltered(zlib.decompress(raw), height, width * size, size)
    return [b"".join(row[i : i + 3] for i in range(0, len(row), size)) for row in rows]


def unfiltered(raw: bytes, height: int, stride: int, size: int) -> list[bytes]:
    """Undo PNG's five line filters. Source: PNG specification, section 9."""
    rows, above = [], bytes(stride)
    for number in range(height):
        start = number * (stride + 1)
        line, kind = bytearray(raw[start + 1 : start + 1 + stride]), raw[start]
        for i in range(stride):
            left = line[i - size] if i >= size else 0
            corner = above[i - size] if i >= size else 0
            guess = (0, left, above[i], (left + above[i]) // 2, paeth(left, above[i], corner))
            line[i] = (line[i] + guess[kind]) & 0xFF
        above = bytes(line)
        rows.append(above)
    return rows


def paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda near: abs(guess - near))


def count(rows: list[bytes], colour: tuple[int, int, int]) -> int:
    wanted = bytes(colour)
    return sum(row[i : i + 3] == wanted for row in rows for i in range(0, len(row), 3))


def test_the_charts_are_drawn_in_the_light(page, tmp_path):
    rows = picture(page, tmp_path)

    assert rows[5][:3] == b"\xff\xff\xff"
    for ending, ink in INK.items():
        assert count(rows, ink) > 500, ending


def test_the_page_is_dark_on_a_dark_desktop(page, tmp_path):
    rows = picture(page, tmp_path, "--blink-settings=preferredColorScheme=0")

    assert tuple(rows[5][:3]) == DARK_PAGE
