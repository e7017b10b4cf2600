"""One file of a bundle, and back: pack, sign, show, unpack.

In: a `Desk`, the files of packs, and a bundle. Out: a pack that the device's own code
accepts, or an exception with nothing of that name. What is packed is the bundle as it is:
its metadata goes into the header untouched, its content into the image. The online key
seals it at once; where the root asks for more, an offline key signs the pack as it would
have signed the directory, and the seal with it.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.core import authoring, pack
from agent.core.authoring import BUNDLE_FILE, AuthoringError
from agent.core.keys import PrivateKey, key_id
from agent.core.pack import Header, SealFacts
from agent.core.tuf import Role, Root
from agent.core.verify import bundle_signers
from agent.core.verity import Tree
from agent.log import get_logger
from agent.services import author
from agent.services.author import BundleInfo
from agent.services.desk import Desk

log = get_logger()

Head = Callable[[int, Tree], bytes]
"""Given the image's size in bytes and its tree, returns what stands before it."""


class PackFiles(Protocol):
    """Packs on a disk."""

    def alone(self, path: Path, act: str) -> AbstractContextManager[None]:
        """Keep everybody else from writing a pack, for the duration.

        Raises:
            AuthoringError: somebody else is at it; nothing was changed.
        """

    def read(self, path: Path) -> Header:
        """Read a pack's header.

        Raises:
            BundleError: it is no pack.
        """

    def write(self, bundle: Path, path: Path, salt: bytes, head: Head) -> None:
        """Make a pack of a bundle's content; whole or not there.

        Raises:
            AuthoringError: there is no content, no room, or the file would be too large.
        """

    def rewrite(self, path: Path, header: Header, head: bytes) -> None:
        """Give a pack another header, its image compared with the seal on the way.

        Raises:
            PullError: the image is not the one that was sealed; the pack is as it was.
        """

    def unpack(
        self, path: Path, header: Header, destination: Path, ready: Callable[[], object]
    ) -> None:
        """Write a pack's content into a directory, replacing parts of a bundle that lie there.

        Args:
            path: the pack.
            header: its header.
            destination: the directory.
            ready: called when all was compared, before the first part appears.

        Raises:
            PullError: the image is not the one that was sealed.
            AuthoringError: it cannot be written.
        """


@dataclass(frozen=True, slots=True)
class PackInfo:
    """What a pack says of itself.

    Attributes:
        bundle: the bundle in it.
        size: of the whole file, in bytes.
        facts: what its seal says.
        signers: key ids whose signature on the seal holds.
        missing: how many more keys have to sign the seal.
    """

    bundle: BundleInfo
    size: int
    facts: SealFacts
    signers: tuple[str, ...]
    missing: int


def pack_bundle(desk: Desk, packs: PackFiles, bundle: Path, path: Path, keys: Path) -> PackInfo:
    """Make one file of a bundle.

    Args:
        desk: the author's.
        packs: files of packs.
        bundle: the bundle's directory.
        path: the new file.
        keys: directory made by `author.make_keys`; its online targets key seals.

    Raises:
        AuthoringError: the bundle cannot be packed; there is no file of that name.
    """
    with packs.alone(path, f"packs '{bundle}'"):
        _pack(desk, packs, bundle, path, keys)
    return show_pack(desk, packs, path)


def _pack(desk: Desk, packs: PackFiles, bundle: Path, path: Path, keys: Path) -> None:
    info = author.show_bundle(desk, bundle)
    documents = dict(desk.medium(bundle).read().metadata)
    key = desk.keys(keys).online().targets
    _demand_packable(desk, info, documents, path)
    _demand_allowed(key, documents, keys)
    content = desk.medium(bundle).inventory(info.targets)
    salt = _salt(documents)

    def head(size: int, tree: Tree) -> bytes:
        facts = SealFacts(size, tree.root_hash, salt, content)
        return pack.write_header(documents, authoring.sign(_seal(info, documents, facts), (key,)))

    packs.write(bundle, path, salt, head)
    log.info("pack.made", path=str(path))


def sign_pack(desk: Desk, packs: PackFiles, path: Path, archive: Path) -> PackInfo:
    """Add one offline key's signature to a pack: to its seal, and to what of its bundle needs it.

    Raises:
        AuthoringError: the key is a stranger or has signed, or the pack cannot be used.
        PullError: the image is not the one that was sealed; nobody should vouch for it.
    """
    with packs.alone(path, "signs it"):
        _sign(desk, packs, path, archive)
    return show_pack(desk, packs, path)


def _sign(desk: Desk, packs: PackFiles, path: Path, archive: Path) -> None:
    header = packs.read(path)
    documents = dict(header.documents)
    root, key = author.offline_signer(desk, documents, path, archive)
    seal = authoring.add_signature(header.seal.document, key)
    if key_id(key.public) not in bundle_signers(documents[BUNDLE_FILE], root.raw).valid:
        documents |= author.sign_documents(documents, key, root)
    packs.rewrite(path, header, pack.write_header(documents, seal))
    log.info("pack.signed", path=str(path), keyid=key_id(key.public))


def show_pack(desk: Desk, packs: PackFiles, path: Path) -> PackInfo:
    """Read what a pack says of itself; signatures are counted when they hold.

    Raises:
        AuthoringError, BundleError: it is no pack.
    """
    header = packs.read(path)
    signers, missing = _signers(header)
    return PackInfo(
        bundle=author.show_bundle(desk, path),
        size=header.file_size,
        facts=header.facts,
        signers=signers,
        missing=missing,
    )


def unpack_bundle(desk: Desk, packs: PackFiles, path: Path, destination: Path) -> BundleInfo:
    """Make a bundle's directory of a pack, each block compared with the seal.

    The seal is judged by the roots that the pack brings along; ``bundle verify --roots``
    judges by a device's.

    Raises:
        AuthoringError: the seal does not hold, or the destination has content.
        BundleError: it is no pack, or its image is not the one that was sealed.
    """
    header = packs.read(path)
    if not _signers(header)[0]:
        raise AuthoringError(f"no targets key of the roots in '{path}' has signed its seal")
    bundle = desk.bundle(destination)
    with bundle.alone(f"unpacks '{path}'"):
        act = f"pack {header.facts.root_hash.hex()}"
        if (occupied := bundle.occupied()) and bundle.unfinished() != act:
            raise AuthoringError(
                f"'{destination}' holds {', '.join(occupied)} already", hint="name a new directory"
            )
        packs.unpack(path, header, destination, lambda: bundle.begin(act))
        bundle.publish(header.documents)
    log.info("pack.unpacked", path=str(path), destination=str(destination))
    return author.show_bundle(desk, destination)


def _demand_packable(
    desk: Desk, info: BundleInfo, documents: Mapping[str, bytes], path: Path
) -> None:
    """Refuse what devices would refuse for ever, before anything is written."""
    if path.exists():
        raise AuthoringError(f"'{path}' exists already", hint="name a new file")
    if not path.name.lower().endswith(pack.SUFFIX):
        raise AuthoringError(
            f"'{path.name}' does not end in '{pack.SUFFIX}': devices would not look at it",
            hint=f"name it '{path.stem}{pack.SUFFIX}'",
        )
    if unfinished := desk.bundle(info.path).unfinished():
        raise AuthoringError(
            f"making {unfinished!r} in '{info.path}' was interrupted",
            hint="finish it by repeating that command, then pack it",
        )
    if strays := desk.bundle(info.path).strays():
        raise AuthoringError(strays[0], hint="mend the bundle, then pack it")
    if info.signers is not None and info.signers.refused:
        raise AuthoringError(
            f"'{BUNDLE_FILE}' carries a bad or strange signature; devices refuse it",
            hint="renew the bundle with 'bundle create --tuf-only'",
        )
    if info.ends <= desk.now():
        raise AuthoringError(
            f"the bundle expired at {authoring.write_date(info.ends)}",
            hint="renew it with 'bundle create --tuf-only'",
        )
    if any(not data.isascii() for data in documents.values()):
        raise AuthoringError(f"metadata in '{info.path}/tuf' is not ASCII; devices refuse it")


def _demand_allowed(key: PrivateKey, documents: Mapping[str, bytes], keys: Path) -> None:
    keyid = key_id(key.public)
    if keyid not in authoring.targets_keys(_newest_root(documents)):
        raise AuthoringError(
            f"online targets key {keyid} in '{keys}' is not in the bundle's newest root",
            hint="name the keys that made this bundle",
        )


def _newest_root(documents: Mapping[str, bytes]) -> Root:
    raw = authoring.latest_root(documents)
    if raw is None:
        raise AuthoringError(
            "the bundle carries no root from version 3 on, so nobody knows who may seal it",
            hint="create the bundle with 'usb-update bundle create' or fioctl",
        )
    return authoring.read_root(raw, "the bundle's newest root")


def _salt(documents: Mapping[str, bytes]) -> bytes:
    """Return a salt that differs from bundle to bundle and is the same for the same bundle."""
    return hashlib.sha256(documents[BUNDLE_FILE]).digest()


def _seal(info: BundleInfo, documents: Mapping[str, bytes], facts: SealFacts) -> dict[str, object]:
    """Return what is signed of a seal: it ends when the bundle does."""
    version = authoring.read_signed(documents[BUNDLE_FILE], BUNDLE_FILE).version
    return pack.issue_seal(facts, version=version, expires=authoring.write_date(info.ends))


def _signers(header: Header) -> tuple[tuple[str, ...], int]:
    """Return who has signed the seal, and how many keys still have to."""
    root = _newest_root(header.documents)
    seal = authoring.read_signed(header.seal.document, pack.SEAL)
    signers = authoring.valid_signers(seal, authoring.targets_keys(root))
    return signers, max(0, root.roles[Role.TARGETS].threshold - len(signers))
