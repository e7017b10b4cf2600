"""The medium in memory, the directory and the pack keep one contract."""

import pytest

from agent.adapters import packs
from agent.adapters.medium import DirectoryMedium
from agent.adapters.packs.medium import PackMedium
from agent.core import pack
from agent.core.bundle import Inventory
from agent.core.pack import SealFacts
from agent.core.verify import limit_of
from agent.core.verity import BLOCK_BYTES
from tests.contract.medium_contract import MediumContract
from tests.factory import FUTURE, dump, sign
from tests.fakes.medium import MemoryMedium


def written(path, metadata, commits=(), app_uris=()):
    """Write what a stick holds."""
    if metadata is not None:
        (path / "tuf").mkdir(parents=True)
        for name, data in metadata.items():
            (path / "tuf" / name).write_bytes(data)
    for commit in commits:
        file = path / "ostree_repo/objects" / commit[:2] / f"{commit[2:]}.commit"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"commit")
    for number, uri in enumerate(app_uris):
        file = path / "apps/apps" / f"app{number}" / f"{number:064x}" / "uri"
        file.parent.mkdir(parents=True)
        file.write_text(uri)
    return DirectoryMedium(path)


def packed_up(path, metadata, commits=(), app_uris=()):
    """Write the same as one file: its author leaves behind what is no metadata."""
    file = path / "update.usbu"
    path.mkdir()
    if metadata is not None:
        content = Inventory(frozenset(commits), frozenset(app_uris))
        facts = SealFacts(BLOCK_BYTES, bytes(32), b"", content)
        seal = sign(pack.issue_seal(facts, version=1, expires=FUTURE), [])
        documents = {name: data for name, data in metadata.items() if limit_of(name)}
        file.write_bytes(pack.write_header(documents, dump(seal)) + bytes(BLOCK_BYTES))
    return PackMedium(file, packs.places(path))


class TestMemoryMedium(MediumContract):
    @pytest.fixture
    def make(self):
        def make(metadata, commits=(), app_uris=()):
            return MemoryMedium(metadata, frozenset(commits), frozenset(app_uris))

        return make


class TestDirectoryMedium(MediumContract):
    @pytest.fixture
    def make(self, tmp_path):
        def make(metadata, commits=(), app_uris=()):
            return written(tmp_path / "stick", metadata, commits, app_uris)

        return make


class TestPackMedium(MediumContract):
    @pytest.fixture
    def make(self, tmp_path):
        def make(metadata, commits=(), app_uris=()):
            return packed_up(tmp_path / "stick", metadata, commits, app_uris)

        return make
