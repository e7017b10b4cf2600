"""What every `Medium` must do. Subclasses provide ``make``.

``make(metadata, commits, app_uris)`` returns a Medium; metadata None means no ``tuf``.
"""

import pytest

from agent.core.errors import MetadataNotFoundError
from agent.core.target import AppRef, Target

COMMIT, OTHER_COMMIT = "a" * 64, "b" * 64
URI = f"hub.example/factory/shop@sha256:{'c' * 64}"
OTHER_URI = f"hub.example/factory/till@sha256:{'d' * 64}"
TARGET = Target("lmp-1", 1, COMMIT, apps=(AppRef("shop", URI), AppRef("till", OTHER_URI)))
METADATA = {
    "3.root.json": b"root",
    "timestamp.json": b"timestamp",
    "snapshot.json": b"snapshot",
    "targets.json": b"targets",
    "bundle-targets.json": b"bundle",
    "7.snapshot.json": b"seven",
    "7.targets.json": b"seven too",
}
JUNK = (
    "._timestamp.json",
    ".DS_Store",
    "0.root.json",
    "03.root.json",
    "TIMESTAMP.JSON",
    "3.root.json.bak",
    "root.json",
    "3.timestamp.json",
)


class MediumContract:
    def test_metadata_is_read_byte_for_byte(self, make):
        assert make(METADATA).read().metadata == METADATA

    def test_junk_beside_the_metadata_is_passed_over(self, make):
        junk = dict.fromkeys(JUNK, b"junk")

        assert make(METADATA | junk).read().metadata == METADATA

    def test_metadata_that_is_not_there_is_not_made_up(self, make):
        assert make({}).read().metadata == {}

    def test_without_tuf_there_is_no_metadata(self, make):
        with pytest.raises(MetadataNotFoundError):
            make(None).read()

    def test_the_inventory_names_the_commits_that_are_there(self, make):
        medium = make({}, commits={COMMIT})
        other = Target("lmp-2", 2, OTHER_COMMIT)

        assert medium.inventory([TARGET, other]).commits == {COMMIT}

    def test_the_inventory_names_the_apps_that_are_there(self, make):
        assert make({}, app_uris={URI}).inventory([TARGET]).app_uris == {URI}

    def test_what_no_target_wants_is_not_in_the_inventory(self, make):
        medium = make({}, commits={OTHER_COMMIT}, app_uris={URI})
        bare = Target("lmp-1", 1, COMMIT)

        inventory = medium.inventory([bare])

        assert (inventory.commits, inventory.app_uris) == (frozenset(), frozenset())

    @pytest.mark.parametrize("text", [URI + "\n", " " + URI, URI.upper(), ""])
    def test_only_the_exact_uri_counts(self, make, text):
        assert make({}, app_uris={text}).inventory([TARGET]).app_uris == frozenset()

    def test_an_empty_medium_has_an_empty_inventory(self, make):
        assert make(None).inventory([TARGET]).commits == frozenset()
