"""Making bundles: dates, lists and versions, for any input and in any order."""

import contextlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import authoring, factory
from agent.core.authoring import AuthoringError, IssuedVersions
from agent.core.bundletype import BundleType
from agent.core.factory import CI_FILE
from agent.core.keys import key_id
from agent.core.tuf import Role
from agent.core.verify import verify_roots
from tests.factory.keys import key
from tests.unit.core.test_factory import BOTH, CHAIN, END, add, new_books, wave

DATES = st.datetimes(
    datetime(2020, 1, 1),  # noqa: DTZ001  hypothesis adds the zone
    datetime(2090, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
DAYS = st.integers(-10, 5000)


def asked(now: datetime, days: int, root: datetime, targets: datetime) -> datetime | AuthoringError:
    try:
        return authoring.expiry(now, days, root=root, targets=targets, refresh="renew them")
    except AuthoringError as e:
        return e


class TestExpiry:
    @given(DATES, DAYS, st.timedeltas(timedelta(-9), timedelta(4000)), st.timedeltas())
    def test_it_is_what_was_asked_for_and_no_later_than_any_role(
        self, now: datetime, days: int, root_in: timedelta, targets_in: timedelta
    ) -> None:
        with contextlib.suppress(OverflowError):
            root, targets = now + root_in, now + targets_in
            ends = asked(now, days, root, targets)
            if isinstance(ends, datetime):
                assert ends == now.replace(microsecond=0) + timedelta(days=days)
                assert now < ends + timedelta(seconds=1)
                assert ends <= min(root, targets)
            else:
                assert days < 1 or min(root, targets) < now + timedelta(days=days)

    @given(DATES, st.integers(1, 5000), st.integers(0, 4000), st.integers(0, 4000))
    def test_a_refusal_gives_the_facts_and_the_most_that_can_be_had(
        self, now: datetime, days: int, root_days: int, targets_days: int
    ) -> None:
        root, targets = now + timedelta(days=root_days), now + timedelta(days=targets_days)
        refused = asked(now, days, root, targets)
        if isinstance(refused, datetime):
            return
        role, ends = ("Root", root) if root < now + timedelta(days=days) else ("Targets", targets)
        wanted = now.replace(microsecond=0) + timedelta(days=days)
        most = re.search(r"at most (\d+) days", refused.hint)

        assert refused.message == (
            f"{role} metadata expire ({authoring.write_date(ends)}) before the specified "
            f"expiration time ({authoring.write_date(wanted)})"
        )
        assert (most is None) == (min(root_days, targets_days) < 1)
        if most:
            number = int(most.group(1))
            assert isinstance(asked(now, number, root, targets), datetime)
            assert isinstance(asked(now, number + 1, root, targets), AuthoringError)

    @given(DATES)
    def test_dates_are_read_as_they_are_written(self, when: datetime) -> None:
        assert authoring.read_date(authoring.write_date(when)) == when.replace(microsecond=0)


NAMES = st.sampled_from([f"t-{n}" for n in range(4)])
ENTRIES = st.builds(
    lambda commit, apps: {"hashes": {"sha256": commit * 64}, "custom": apps},
    st.sampled_from("ab"),
    st.sampled_from([{}, {"docker_compose_apps": {"shop": {"uri": "u"}}}]),
)


class TestMerging:
    @given(st.lists(st.tuples(NAMES, ENTRIES), max_size=12))
    def test_a_name_stands_for_the_content_it_came_with(
        self, additions: list[tuple[str, dict[str, object]]]
    ) -> None:
        merged: dict[str, object] = {}
        first: dict[str, object] = {}
        for name, entry in additions:
            same = first.setdefault(name, entry) == entry
            try:
                merged = authoring.merge_entries(merged, name, entry)
                assert same
            except AuthoringError:
                assert not same
        assert merged == first

    @given(st.dictionaries(NAMES, ENTRIES), st.randoms(use_true_random=False))
    def test_the_order_does_not_matter(
        self, entries: dict[str, dict[str, object]], random: object
    ) -> None:
        shuffled = list(entries.items())
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        merged: dict[str, object] = {}
        for name, entry in shuffled:
            merged = authoring.merge_entries(merged, name, entry)

        assert merged == entries


KINDS = st.sampled_from(list(BundleType))
REQUESTS = st.tuples(KINDS, st.integers(0, 50), st.sampled_from(["", "a", "b"]))


class TestVersions:
    @given(st.lists(REQUESTS, max_size=20))
    def test_a_version_is_given_to_one_request(
        self, requests: list[tuple[BundleType, int, str]]
    ) -> None:
        versions, given_to = IssuedVersions(), dict[tuple[BundleType, int], str]()
        for kind, above, request in requests:
            versions, version = versions.next(kind, above=above, request=request)
            before = given_to.setdefault((kind, version), request)
            newest = max(number for k, number in given_to if k is kind)

            assert version == newest >= above
            assert before == request
            assert request or list(given_to)[-1] == (kind, version)
            versions = authoring.read_versions(authoring.write_versions(versions), "state")

    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_no_act_takes_a_version_back(self, data: st.DataObject) -> None:
        """Any acts in any order: what is refused changes nothing, what is kept goes forward."""
        books, root, offline = new_books(), [CHAIN.root], [CHAIN.offline_targets]
        for number in range(data.draw(st.integers(1, 12))):
            act = data.draw(st.sampled_from(list(ACTS)))
            before, after = dict(books), dict(books)
            try:
                ACTS[act](after, number, data.draw(st.integers(0, 3)), root, offline)
            except AuthoringError:
                continue
            factory.demand_forward(before, after)
            books = after
        for kind in BundleType:
            chain = list(factory.roots_of(books, kind).values())
            assert len(verify_roots(dict(enumerate(chain, 1)))) == len(chain)
        newest = factory.newest_root(books, BundleType.PROD)
        for tag in factory.production_tags(books):
            path = factory.production_file(tag)
            assert factory.missing_signatures(books[path], newest) == 0
            assert authoring.read_signed(books[path], path).version <= versions_of(books)["prod"]
        if CI_FILE in books:
            ci = authoring.read_signed(books[CI_FILE], CI_FILE)
            assert ci.version <= versions_of(books)["ci"]


def versions_of(books: dict[str, bytes]) -> dict[str, int]:
    return dict(factory.issued_versions(books).highest)


Act = Callable[[dict[str, bytes], int, int, list, list], object]  # type: ignore[type-arg]


def rotate(role: Role, books: dict[str, bytes], number: int, root: list, holder: list) -> None:  # type: ignore[type-arg]
    new = key(f"{role}-{number}")
    signers = (root[0], new) if role is Role.ROOT else (root[0],)
    factory.rotate(books, role, key_id(holder[0].public), new, signers=signers)
    holder[0] = new


ACTS: dict[str, Act] = {
    "add": lambda b, n, k, r, o: add(b, k),
    "bundle": lambda b, n, k, r, o: factory.take_version(b, list(BundleType)[k % 2], k),
    "tag": lambda b, n, k, r, o: factory.tag_target(
        b, f"rpi-lmp-{k}", ["main", "devel"], CHAIN.targets, END
    ),
    "wave": lambda b, n, k, r, o: factory.start_wave(b, wave(f"w{k}", k), END, (BOTH[0], o[0])),
    "complete": lambda b, n, k, r, o: factory.complete_wave(b, f"w{k}"),
    "cancel": lambda b, n, k, r, o: factory.cancel_wave(b, f"w{k}"),
    "root": lambda b, n, k, r, o: rotate(Role.ROOT, b, n, r, r),
    "targets": lambda b, n, k, r, o: rotate(Role.TARGETS, b, n, r, o),
}
