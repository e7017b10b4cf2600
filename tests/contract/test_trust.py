"""What every Trust must do; ``sql.db`` and the one in memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters.sotadb import SotaDatabase, SotaTrust
from agent.core.bundle import TrustedDocuments
from agent.ports import Trust
from tests.fakes.trust import MemoryTrust

ROOTS = ((1, b'{"root": 1}'), (2, b'{ "root" : 2 }\n'), (10, b"\xff\x00"))
DOCUMENTS = TrustedDocuments(ROOTS, b"timestamp\n", b"snapshot", b"targets " * 100_000)
PROVISIONED = ((1, b"one"), (2, b"two"))


class TrustContract:
    """Subclasses provide ``trust``, ``reopen``, and ``provisioned``: one with such roots."""

    def test_a_new_device_trusts_nothing(self, trust: Trust) -> None:
        assert trust.documents() == TrustedDocuments()

    def test_the_very_bytes_come_back(self, trust: Trust, reopen: Callable[[], Trust]) -> None:
        trust.remember(DOCUMENTS)

        assert reopen().documents() == DOCUMENTS

    def test_remembering_twice_is_remembering_once(self, trust: Trust) -> None:
        trust.remember(DOCUMENTS)
        trust.remember(DOCUMENTS)

        assert trust.documents() == DOCUMENTS

    def test_what_is_not_named_is_not_trusted_any_more(self, trust: Trust) -> None:
        trust.remember(DOCUMENTS)
        only_roots = TrustedDocuments(ROOTS[:1])
        trust.remember(only_roots)

        assert only_roots == trust.documents()

    def test_roots_come_back_in_ascending_order(self, trust: Trust) -> None:
        trust.remember(replace(DOCUMENTS, roots=tuple(reversed(ROOTS))))

        assert trust.documents().roots == ROOTS

    def test_provisioned_roots_stand_in_for_none(self, provisioned: Trust) -> None:
        assert TrustedDocuments(PROVISIONED) == provisioned.documents()

    def test_roots_that_were_verified_count_more_than_provisioned_ones(
        self, provisioned: Trust
    ) -> None:
        provisioned.remember(DOCUMENTS)

        assert provisioned.documents() == DOCUMENTS


class TestMemoryTrust(TrustContract):
    @pytest.fixture
    def trust(self) -> Trust:
        return MemoryTrust()

    @pytest.fixture
    def reopen(self, trust: Trust) -> Callable[[], Trust]:
        return lambda: trust

    @pytest.fixture
    def provisioned(self) -> Trust:
        return MemoryTrust(provisioned=PROVISIONED)


class TestSotaTrust(TrustContract):
    @pytest.fixture
    def trust(self, tmp_path: Path) -> Trust:
        return SotaTrust(SotaDatabase(tmp_path / "sql.db"))

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], Trust]:
        return lambda: SotaTrust(SotaDatabase(tmp_path / "sql.db"))

    @pytest.fixture
    def provisioned(self, tmp_path: Path) -> Trust:
        return SotaTrust(SotaDatabase(tmp_path / "sql.db"), lambda: PROVISIONED)
