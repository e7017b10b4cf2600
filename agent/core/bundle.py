"""What a medium holds, before and after anything of it is believed.

`RawBundle` and `Inventory` are claims of the medium. `VerifiedBundle` is made only by
`verify.verify_bundle`: holding one is the check.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from agent.core.bundletype import BundleType
from agent.core.target import Target


@dataclass(frozen=True, slots=True)
class RawSeal:
    """The signed document of a pack, see `pack`. Not believed.

    Attributes:
        document: its bytes.
        offset: where the image begins in the file.
    """

    document: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class SealedImage:
    """An image whose root hash was signed: each of its blocks can be judged.

    Attributes:
        file_system: the kernel's word for what it holds.
        offset: where it begins in its file. Not signed: elsewhere lie other bytes, which the
            root hash refuses. The hash tree follows it.
        size: in bytes; whole blocks.
        root_hash, salt: see `verity`.
    """

    file_system: str
    offset: int
    size: int
    root_hash: bytes
    salt: bytes


@dataclass(frozen=True, slots=True)
class RawBundle:
    """The metadata files of a bundle as bytes, read once. Not believed.

    Attributes:
        metadata: file name inside ``tuf/`` to its bytes; only the names in
            bundle-format §1.6 (``N.root.json``, ``timestamp.json``, ...), each bounded.
        origin: where it was read, for messages.
        seal: of a bundle in one file; None for a directory.
    """

    metadata: Mapping[str, bytes]
    origin: str
    seal: RawSeal | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """Which content a bundle claims to carry. Content is believed only by its digest.

    Attributes:
        commits: commits whose commit object is in ``ostree_repo/``.
        app_uris: exact text of every ``apps/apps/<name>/<digest>/uri``.
    """

    commits: frozenset[str] = frozenset()
    app_uris: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TrustedDocuments:
    """The TUF documents a device trusts: the exact bytes that were verified.

    Attributes:
        roots: ``(version, bytes)``, versions ascending; the last one judges the roles.
        timestamp, snapshot, targets: None when none was ever verified.
    """

    roots: tuple[tuple[int, bytes], ...] = ()
    timestamp: bytes | None = None
    snapshot: bytes | None = None
    targets: bytes | None = None


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle whose every signature, hash, version and date held.

    Attributes:
        targets: the Targets the bundle lists and ``targets.json`` vouches for, in the
            bundle's order; empty when they have none in common.
        documents: what the device must remember, even when nothing gets installed.
        bundle_type: CI or production; None only without bundle metadata (switched off
            by ``[usb_update] require_bundle_metadata = false``).
        tag: the bundle's tag, empty without bundle metadata.
        expires: UTC; the earliest of all expiries, the bundle's own included.
        seen_utc: newest time the verified metadata vouches for (``createdAt`` of Targets
            and the like), None when it names none; feeds the clock's lower bound.
        listed: names in ``bundle-targets.json``, for messages.
        image: the content of a bundle in one file; None for a directory.
    """

    targets: tuple[Target, ...]
    documents: TrustedDocuments
    bundle_type: BundleType | None
    tag: str
    expires: datetime
    seen_utc: datetime | None = None
    listed: tuple[str, ...] = field(default=())
    image: SealedImage | None = None
