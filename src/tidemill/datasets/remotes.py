"""Datasets between workspaces, through a folder or a bucket: pushed, pulled, cloned, and mended from there."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sqlalchemy import insert, select

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.schema import insert_new
from tidemill.core.codec import decode, encode
from tidemill.core.errors import Conflict, Corrupt, NotFound
from tidemill.core.ids import Digest, check_name
from tidemill.core.settings import mask
from tidemill.core.values import Value, replace
from tidemill.datasets.content import Watch
from tidemill.datasets.versions import DATASET_VERSIONS, DATASETS, DatasetVersion, list_versions, read_version, version_of
from tidemill.govern.workspace import Workspace
from tidemill.store.objects import ObjectStore
from tidemill.store.refs import Refs
from tidemill.store.table import open_refs, open_store
from tidemill.store.transfer import transfer
from tidemill.store.trees import read_tree

_ALL = 1_000_000
_READ_BYTES = 4 << 20


class Moved(Value, frozen=True, kw_only=True):
    """What was pushed or pulled: versions that are new there, objects and bytes sent, and objects that were there."""

    remote: str
    versions: tuple[str, ...]
    sent: int
    sent_bytes: int
    there: int


class DatasetPulled(EventBody, frozen=True, kw_only=True, tag="dataset.pulled"):
    """A version came from a remote."""

    name: str
    version: int
    digest: Digest
    remote: str


class DatasetsVerified(Value, frozen=True, kw_only=True):
    """What reading every file of every version again found. broken: `NAME@V PATH` that is corrupt or missing; mended: those restored."""

    files: int
    size_bytes: int
    broken: tuple[str, ...]
    mended: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return len(self.mended) == len(self.broken)


class Diverged(Conflict):
    """Both sides have a version of that number, of different content."""

    def __init__(self, node: str, where: str) -> None:
        self.node, self.where = node, where
        super().__init__(f"{node} is something else in {where}; pull it under another name with: tidemill data pull NAME --as OTHER")


class Remote:
    """A folder or bucket that holds objects and what datasets they are."""

    def __init__(self, ws: Workspace, url: str) -> None:
        """url: as of the setting `objects`, or a folder's path. Raises Invalid, StoreRefused."""
        place = url if ":" in url else f"file:{Path(url).absolute()}"
        self.shown = mask(url)
        self.objects: ObjectStore = open_store(place, cache=ws.state / "cache" / "objects", base=ws.state)
        self.refs: Refs = open_refs(place, base=ws.state)
        self._root = f"datasets/{ws.project}"

    def names(self) -> list[str]:
        """Return the datasets that are there."""
        return sorted({name.removeprefix(f"{self._root}/").partition("/")[0] for name in self.refs.names(self._root)})

    def versions(self, name: str) -> dict[int, DatasetVersion]:
        """Return the versions of a dataset by number."""
        found = (self.refs.get(path) for path in self.refs.names(f"{self._root}/{name}"))
        versions = [decode(data, DatasetVersion, what=f"version of {name} in {self.shown}") for data in found if data is not None]
        return {version.version: version for version in versions}

    def tell(self, version: DatasetVersion) -> bool:
        """Write a version down; return False when it was. Raises Diverged."""
        path, data = f"{self._root}/{version.name}/{version.version:06d}.json", encode(replace(version, deleted_at=None))
        if self.refs.put_new(path, data):
            return True
        there = decode(self.refs.get(path) or b"", DatasetVersion, what=path)
        if there.digest != version.digest:
            raise Diverged(version.node, self.shown)
        return False


def push(ws: Workspace, references: Sequence[str], url: str, *, watch: Watch | None = None) -> Moved:
    """Send versions (`NAME` means all of it) to a remote: only what it lacks. Raises Diverged before anything is sent."""
    remote = Remote(ws, url)
    found: list[DatasetVersion] = []
    for reference in references:
        ws.require("datasets.read", reference.partition("@")[0])
        newest = read_version(ws, reference)
        found += [newest] if "@" in reference else list_versions(ws, newest.name, limit=_ALL)
    for name in {version.name for version in found}:
        there = remote.versions(name)
        _check_same([version for version in found if version.name == name], there, remote.shown)
    sent = transfer(ws.objects, remote.objects, _objects_of(ws.objects, found), watch=watch)
    told = [version.node for version in sorted(found, key=lambda each: (each.name, each.version)) if remote.tell(version)]
    return Moved(remote=remote.shown, versions=tuple(told), sent=sent.sent, sent_bytes=sent.sent_bytes, there=sent.there)


def pull(
    ws: Workspace, references: Sequence[str], url: str, *, as_name: str | None = None, watch: Watch | None = None, reason: str = ""
) -> Moved:
    """Bring versions here (`NAME` means all of it, none named every dataset): only what is missing. Raises Diverged, NotFound.

    as_name: what the one dataset is called here.
    """
    remote = Remote(ws, url)
    found: list[DatasetVersion] = []
    names = remote.names()
    for reference in references or names:
        name, _, number = reference.partition("@")
        there = remote.versions(name)
        wanted = [each for each in there.values() if not number or str(each.version) == number.removeprefix("v")]
        if not wanted:
            raise NotFound(f"there is no dataset {reference!r} in {remote.shown} (there are: {', '.join(names) or 'none'})")
        found += [replace(each, name=check_name(as_name, "dataset")) if as_name else each for each in wanted]
    for name in {version.name for version in found}:
        ws.require("datasets.write", name)
    held = _held(ws, {version.name for version in found})
    for version in found:
        if (mine := held.get((version.name, version.version))) is not None and mine.digest != version.digest:
            raise Diverged(version.node, remote.shown)
    trees = transfer(remote.objects, ws.objects, {version.digest for version in found})
    sent = transfer(remote.objects, ws.objects, _objects_of(ws.objects, found), watch=watch)
    new = [version for version in sorted(found, key=lambda each: (each.name, each.version)) if (version.name, version.version) not in held]
    with ws.catalog.transaction() as tx:
        for version in new:
            row = {"project": ws.project, "name": version.name, "description": "", "owner": ws.actor.id, "created_at": ws.clock.now()}
            insert_new(tx, DATASETS, [row])
            values = {field: getattr(version, field) for field in version.__struct_fields__}
            tx.execute(insert(DATASET_VERSIONS).values(project=ws.project, **values))
            before = f"dataset:{version.name}@{version.version - 1}"
            if version.version > 1:
                link(tx, ws.project, source=before, target=version.node, relation="succeeded", at=version.created_at)
            body = DatasetPulled(name=version.name, version=version.version, digest=version.digest, remote=remote.shown)
            ws.record(tx, body, subject=f"dataset:{version.name}", reason=reason)
    return Moved(
        remote=remote.shown, versions=tuple(version.node for version in new), sent=trees.sent + sent.sent,
        sent_bytes=trees.sent_bytes + sent.sent_bytes, there=sent.there,
    )  # fmt: skip


def verify(
    ws: Workspace, references: Sequence[str], *, repair: str | None = None, watch: Callable[[int, int], None] | None = None
) -> DatasetsVerified:  # fmt: skip
    """Read every file of versions (`NAME` means all of it) again. repair: a remote from which what is broken is restored."""
    found: list[DatasetVersion] = []
    for reference in references:
        newest = read_version(ws, reference)
        found += [newest] if "@" in reference else list_versions(ws, newest.name, limit=_ALL)
    remote = Remote(ws, repair) if repair is not None else None
    names: dict[Digest, str] = {}
    broken: dict[Digest, str] = {}
    mended: list[str] = []
    size = 0

    def read(digest: Digest, what: str) -> None:
        nonlocal size
        names[digest] = what
        try:
            size += _read_whole(ws.objects, digest)
        except (Corrupt, NotFound):
            broken[digest] = what
            if remote is not None and _restore(ws.objects, remote.objects, digest):
                mended.append(what)

    for version in found:
        read(version.digest, f"{version.name}@{version.version}")
    readable = [version for version in found if version.digest not in broken or names[version.digest] in mended]
    files = {entry.digest: (version, entry.path) for version in readable for entry in read_tree(ws.objects, version.digest).entries}
    # What others are made of comes first: once it is mended, they are whole again.
    bases = ws.objects.made_of(files)
    ordered = sorted(files, key=lambda digest: (digest not in bases, digest))
    for number, digest in enumerate(ordered):
        version, path = files[digest]
        read(digest, f"{version.name}@{version.version} {path}")
        if watch is not None:
            watch(number + 1, len(ordered))
    return DatasetsVerified(files=len(files), size_bytes=size, broken=tuple(broken.values()), mended=tuple(mended))


def _objects_of(objects: ObjectStore, versions: Iterable[DatasetVersion]) -> set[Digest]:
    trees = {version.digest for version in versions}
    return trees | {entry.digest for tree in trees for entry in read_tree(objects, tree).entries}


def _check_same(mine: Iterable[DatasetVersion], there: dict[int, DatasetVersion], where: str) -> None:
    for version in mine:
        if version.version in there and there[version.version].digest != version.digest:
            raise Diverged(version.node, where)


def _held(ws: Workspace, names: set[str]) -> dict[tuple[str, int], DatasetVersion]:
    """Return all versions here, those in the trash too."""
    query = select(DATASET_VERSIONS).where(DATASET_VERSIONS.c.project == ws.project, DATASET_VERSIONS.c.name.in_(names))
    with ws.catalog.reading() as tx:
        return {(row.name, row.version): version_of(row) for row in tx.execute(query)}


def _read_whole(objects: ObjectStore, digest: Digest) -> int:
    size = 0
    with objects.open(digest) as stream:
        while chunk := stream.read(_READ_BYTES):
            size += len(chunk)
    return size


def _restore(objects: ObjectStore, remote: ObjectStore, digest: Digest) -> bool:
    """Put an object of a remote in the place of a broken one; return whether the remote has it whole."""
    try:
        place = remote.local_path(digest)
        _read_whole(remote, digest)
    except (Corrupt, NotFound):
        return False
    objects.delete(digest)
    with place.open("rb") as file:
        objects.put_chunks(iter(lambda: file.read(_READ_BYTES), b""), expected=digest)
    return True
