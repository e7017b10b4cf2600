"""Stick plans: whatever is let through fits, and means one thing, on every FAT."""

import string

from hypothesis import example, given
from hypothesis import strategies as st

from agent.core.authoring import AuthoringError
from agent.core.stickplan import (
    BUNDLE_NAME,
    FAT_FILE_LIMIT_BYTES,
    FAT_TYPES,
    FILE_SYSTEMS,
    TAKEN_NAMES,
    Room,
    StickFile,
    Tree,
    demand_names,
    demand_portable,
    demand_room,
    missing,
    path_problems,
)

# What a person, or another system, may call a file; much of it no FAT can hold.
ODD = [*'. :?"*<>|\\\x01\x7f', "\u00df", "\u0130", "\u212a", "\u00e9", "\U0001d538"]
LETTERS = st.sampled_from([*"abckABCKssi0-_", *ODD])
NAMES = st.one_of(
    st.text(string.ascii_letters, min_size=1, max_size=6),
    st.text(LETTERS, min_size=1, max_size=4),
    st.sampled_from(["con", "CON.txt", "nul", "COM1", "com10", "aux.", " a", "a ", "a.", "Shop"]),
    st.integers(250, 260).map("a".__mul__),
).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
SIZES = st.one_of(
    st.integers(0, 5000), st.integers(FAT_FILE_LIMIT_BYTES - 2, FAT_FILE_LIMIT_BYTES + 2)
)
FILES = st.lists(st.builds(StickFile, PATHS, SIZES), max_size=6, unique_by=lambda f: f.path)
ROOMS = st.builds(
    Room,
    fs_type=st.sampled_from([*FILE_SYSTEMS, "msdos", "ntfs", ""]),
    free_bytes=st.one_of(st.integers(0, 4 * 10**6), st.integers(0, 2**36)),
    block_bytes=st.sampled_from([512, 4096, 32768]),
)


def passes(demand: object, *arguments: object, **options: object) -> bool:
    """Whether something is let through; else it is said in a sentence with a hint."""
    refused: AuthoringError | None = None
    try:
        demand(*arguments, **options)  # type: ignore[operator]
    except AuthoringError as e:
        refused = e
    assert refused is None or (refused.message.isprintable() and refused.hint)
    return refused is None


def fat_holds(name: str) -> bool:
    """What VFAT says of a long name, by its specification and not by our code."""
    units = len(name.encode("utf-16-le")) // 2
    forbidden = set('"*/:<>?\\|') | {chr(code) for code in range(32)} | {"\x7f"}
    return units <= 255 and not forbidden & set(name) and name == name.strip(" ").rstrip(".")


class TestNames:
    @given(st.lists(PATHS, max_size=8, unique=True))
    @example(["a/Shop", "a/shop"])
    @example(["straße", "STRASSE"])
    def test_what_is_let_through_has_names_that_fat_holds_apart(self, paths: list[str]) -> None:
        if list(path_problems(paths)):
            return

        assert all(fat_holds(path.rpartition("/")[2]) for path in paths)
        for same in (str.lower, str.upper, str.casefold):
            assert len({same(path) for path in paths}) == len(paths), same

    @given(st.lists(PATHS, max_size=8, unique=True))
    def test_every_problem_is_found_wherever_it_lies(self, paths: list[str]) -> None:
        """A bad or doubled name is refused in any company, and in any order."""
        bad = not all(fat_holds(path.rpartition("/")[2]) for path in paths)
        twice = len({path.casefold() for path in paths}) < len(paths)

        assert not (bad or twice) or list(path_problems(paths))
        assert bool(list(path_problems(paths))) == bool(list(path_problems(paths[::-1])))

    @given(FILES)
    def test_a_tree_is_refused_for_its_paths_alone(self, files: list[StickFile]) -> None:
        tree = Tree((), tuple(files))

        assert passes(demand_portable, "one", tree) == (
            not list(path_problems([file.path for file in files]))
        )

    @given(
        st.lists(st.one_of(NAMES, st.text(string.ascii_letters + "._-", max_size=50)), max_size=5)
    )
    @example(["Rpi", "rpi"])
    @example(["tuf"])
    def test_bundles_get_directories_of_their_own(self, names: list[str]) -> None:
        if not passes(demand_names, names):
            return

        assert len({name.casefold() for name in names}) == len(names)
        for name in names:
            assert BUNDLE_NAME.fullmatch(name)
            assert fat_holds(name)
            assert name.lower() not in TAKEN_NAMES


class TestRoom:
    @given(FILES, ROOMS, st.integers(0, 40))
    def test_what_is_let_through_fits(
        self, files: list[StickFile], room: Room, directories: int
    ) -> None:
        if not passes(demand_room, files, room, directories=directories):
            return
        blocks = sum(-(-file.size // room.block_bytes) for file in files) + directories

        assert room.fs_type in FILE_SYSTEMS
        assert blocks * room.block_bytes < room.free_bytes
        if room.fs_type in FAT_TYPES:
            assert all(file.size <= FAT_FILE_LIMIT_BYTES for file in files)

    @given(FILES, ROOMS, st.integers(0, 40), st.integers(0, 2**33))
    def test_more_room_never_hurts(
        self, files: list[StickFile], room: Room, directories: int, more: int
    ) -> None:
        if not passes(demand_room, files, room, directories=directories):
            return
        larger = Room(room.fs_type, room.free_bytes + more, room.block_bytes)

        assert passes(demand_room, files, larger, directories=directories)
        assert passes(demand_room, files[1:], room, directories=directories)

    @given(st.integers(0, 2**34), st.sampled_from(FILE_SYSTEMS))
    @example(FAT_FILE_LIMIT_BYTES, "vfat")
    @example(FAT_FILE_LIMIT_BYTES + 1, "vfat")
    def test_only_fat_has_a_limit_of_4_gib(self, size: int, fs_type: str) -> None:
        room = Room(fs_type, 2**40, 4096)
        allowed = fs_type != "vfat" or size < 2**32

        assert passes(demand_room, [StickFile("x", size)], room, directories=0) == allowed


class TestMissing:
    @given(FILES, st.dictionaries(PATHS, SIZES, max_size=6))
    def test_nothing_is_missing_once_it_was_written(
        self, files: list[StickFile], held: dict[str, int]
    ) -> None:
        tree = Tree((), tuple(files))
        wanted = missing(tree, held)
        after = {**held, **{file.path: file.size for file in wanted}}

        assert missing(tree, after) == ()
        assert all(held.get(file.path) == file.size for file in files if file not in wanted)
