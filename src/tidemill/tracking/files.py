"""Files that runs and logged models leave: which path holds which object, and what lies in a folder. Owns their table.

A path is the whole one, as MLflow's artifact proxy names it:
`{experiment}/{run}/artifacts/…` of runs, `{experiment}/models/{model}/artifacts/…` of logged models,
`{experiment}/traces/{trace}/artifacts/…` of traces.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, PrimaryKeyConstraint, Table, bindparam, delete, select, type_coerce
from sqlalchemy.dialects.postgresql import insert as insert_or  # what is used of it here reads the same on SQLite

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.prepared import Prepared
from tidemill.catalog.schema import METADATA, Moment, Text
from tidemill.core.clock import from_micros, micros
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.core.ids import Digest
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import Tree, TreeEntry, store_tree

PATH_MAX = 2048  # bytes; PostgreSQL takes at most a third of a page under one key
_AT_ONCE = 256
# Names that begin with a folder's path and a slash lie between the two, in the order of bytes.
_SLASH, _BEHIND_SLASH = "/", "0"
_LAST = "\U0010ffff"

FILES = Table(
    "files",
    METADATA,
    Column("project", Text, nullable=False),
    # In the order of bytes on both engines, whatever the database's language: what lies in a folder is one stretch of the index.
    Column("path", Text().with_variant(Text(collation="C"), "postgresql"), nullable=False),
    Column("digest", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "path"),
)


class StoredFile(Value, frozen=True, kw_only=True):
    """A file under its path."""

    path: str
    digest: Digest
    size_bytes: int
    at: datetime


class FolderEntry(Value, frozen=True, kw_only=True):
    """What a folder holds directly: a file with its size, or a folder. name is the last part of its path."""

    name: str
    is_dir: bool
    size_bytes: int | None = None


class FilesDeleted(EventBody, frozen=True, kw_only=True, tag="files.deleted"):
    """Files were taken out of the catalog; `gc` gives their disk back."""

    path: str
    files: int


class PathRefused(Invalid):
    """The path leads out of where files are kept, or is not one."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        super().__init__(
            f"path {path[:200]!r} is not usable: {problem}; expected a relative path with forward slashes, like model/weights.bin"
        )


class FileNotKept(NotFound):
    """No file under that path."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"there is no file {path!r}; list the folder that it should lie in")


class FileInTheWay(Conflict):
    """The path is taken by a file where a folder is needed, or the other way round."""

    def __init__(self, path: str, taken: str) -> None:
        self.path, self.taken = path, taken
        super().__init__(f"{path!r} cannot be kept: {taken!r} is a {'folder' if taken == path else 'file'} already; choose another name")


_WITHIN = (
    select(FILES)
    .where(FILES.c.project == bindparam("project"), FILES.c.path > bindparam("after"), FILES.c.path < bindparam("end"))
    .order_by(FILES.c.path)
)
_FILES_BELOW = Prepared(
    select(FILES.c.path, FILES.c.digest, FILES.c.size_bytes, type_coerce(FILES.c.at, BigInteger))
    .where(FILES.c.project == bindparam("project"))
    .where((FILES.c.path == bindparam("path")) | ((FILES.c.path >= bindparam("first")) & (FILES.c.path < bindparam("end"))))
    .order_by(FILES.c.path)
)
_ONE = Prepared(
    select(FILES.c.digest, FILES.c.size_bytes, type_coerce(FILES.c.at, BigInteger)).where(
        FILES.c.project == bindparam("project"), FILES.c.path == bindparam("path")
    )
)
_COMING = insert_or(FILES)
_PUT = Prepared(
    _COMING.on_conflict_do_update(
        index_elements=["project", "path"], set_={name: _COMING.excluded[name] for name in ("digest", "size_bytes", "at")}
    )
)
_FIRST_WITHIN = Prepared(
    select(FILES.c.path)
    .where(FILES.c.project == bindparam("project"), FILES.c.path >= bindparam("first"), FILES.c.path < bindparam("end"))
    .order_by(FILES.c.path)
    .limit(1)
)


def run_folder(experiment: int, run: str) -> str:
    """Return the path under which the artifacts of a run lie."""
    return f"{experiment}/{run}/artifacts"


def model_folder(experiment: int, model: str) -> str:
    """Return the path under which the files of a logged model lie."""
    return f"{experiment}/models/{model}/artifacts"


def check_path(path: str) -> str:
    """Return a path that may name a file or folder. Raises PathRefused."""
    if not path or path.startswith("/") or "\\" in path:
        raise PathRefused(path, "it is empty, absolute, or has backslashes")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise PathRefused(path.encode("utf-8", "replace").decode(), "half a character stands in it") from None
    if "\0" in path or size > PATH_MAX:
        raise PathRefused(path, f"it holds a NUL character, or more than {PATH_MAX} bytes")
    if any(part in ("", ".", "..") for part in path.rstrip("/").split("/")):
        raise PathRefused(path, "a part of it is empty, '.' or '..'")
    return path.rstrip("/")


def keep_file(ws: Workspace, path: str, digest: Digest, size_bytes: int) -> StoredFile:
    """Keep an object, stored already, under a path, replacing what was there. Raises PathRefused, FileInTheWay."""
    ws.require("tracking.write", path)
    check_path(path)
    with ws.catalog.transaction() as tx:
        return write_file(ws, tx, path, digest, size_bytes)


def write_file(ws: Workspace, tx: Connection, path: str, digest: Digest, size_bytes: int) -> StoredFile:
    """Write the row of a file and the edge from what left it, in the caller's transaction. Raises FileInTheWay."""
    _check_free(tx, ws.project, path)
    made = StoredFile(path=path, digest=digest, size_bytes=size_bytes, at=ws.clock.now())
    _PUT.run(tx, {"project": ws.project, "path": path, "digest": digest, "size_bytes": size_bytes, "at": micros(made.at)})
    if (node := owner_of(path)) is not None:
        link(tx, ws.project, source=node, target=f"artifact:{digest}", relation="wrote", at=made.at)
    return made


def find_file(ws: Workspace, path: str) -> StoredFile:
    """Return the file under a path. Raises PathRefused, FileNotKept."""
    ws.require("tracking.read", path)
    check_path(path)
    with ws.catalog.reading() as tx:
        row = _ONE.run(tx, {"project": ws.project, "path": path}).fetchone()
    if row is None:
        raise FileNotKept(path)
    return StoredFile(path=path, digest=Digest(row[0]), size_bytes=row[1], at=from_micros(row[2]))


def list_folder(ws: Workspace, path: str) -> list[FolderEntry]:
    """Return what lies directly in a folder ("" for the topmost), by name; nothing for a file, or where nothing is. Raises PathRefused."""
    ws.require("tracking.read", path or "*")
    prefix = check_path(path) + "/" if path else ""
    with ws.catalog.reading() as tx:
        return list(_entries(tx, ws.project, prefix))


def files_below(ws: Workspace, path: str) -> list[StoredFile]:
    """Return every file in a folder and its folders, or the file under the path itself, by path. Raises PathRefused."""
    ws.require("tracking.read", path)
    check_path(path)
    with ws.catalog.reading() as tx:
        return list(read_files(tx, ws.project, path))


def delete_files(ws: Workspace, path: str) -> int:
    """Take the file under a path, or all that a folder holds, out of the catalog; return how many files it were. Raises PathRefused."""
    ws.require("tracking.write", path)
    check_path(path)
    with ws.catalog.transaction() as tx:
        itself = (FILES.c.project == ws.project) & (FILES.c.path == path)
        count: int = tx.execute(delete(FILES).where(itself | within(ws.project, path))).rowcount
        if count:
            ws.record(tx, FilesDeleted(path=path, files=count), subject=owner_of(path) or f"files:{path}")
        return count


def tree_of(ws: Workspace, path: str, *, only: Collection[str] | None = None) -> Digest:
    """Return the files of a folder as one stored tree, their paths relative to it. Raises FileNotKept when there are none.

    only: the paths, relative to the folder, that shall be in the tree.
    """
    wanted = None if only is None else frozenset(only)
    found = [file for file in files_below(ws, path) if wanted is None or file.path[len(path) + 1 :] in wanted]
    if not found:
        raise FileNotKept(path)
    entries = [
        TreeEntry(path=file.path[len(path) + 1 :] or PurePosixPath(path).name, digest=file.digest, size_bytes=file.size_bytes)
        for file in found
    ]
    return store_tree(ws.objects, Tree(entries=tuple(sorted(entries, key=lambda entry: entry.path))))


def keep_tree(ws: Workspace, path: str, entries: Sequence[TreeEntry]) -> None:
    """Keep the files of a tree, stored already, below a path, in one transaction. Raises PathRefused, FileInTheWay."""
    ws.require("tracking.write", path)
    with ws.catalog.transaction() as tx:
        for entry in entries:
            write_file(ws, tx, check_path(f"{path}/{entry.path}"), entry.digest, entry.size_bytes)


def read_files(tx: Connection, project: str, path: str) -> Iterator[StoredFile]:
    """Yield the file under a path, or all that its folder holds, by path, in the caller's transaction."""
    inside = {"project": project, "path": path, "first": path + _SLASH, "end": path + _BEHIND_SLASH}
    for found, digest, size_bytes, at in _FILES_BELOW.run(tx, inside).fetchall():
        yield StoredFile(path=found, digest=Digest(digest), size_bytes=size_bytes, at=from_micros(at))


def within(project: str, folder: Any) -> Any:
    """Return the clause for all that a folder (a path, or an expression for one) and its folders hold: one stretch of the index."""
    return (FILES.c.project == project) & (FILES.c.path > folder + _SLASH) & (FILES.c.path < folder + _BEHIND_SLASH)


def owner_of(path: str) -> str | None:
    """Return the lineage node of what left a file, None for a path that is nobody's."""
    parts = path.split("/")
    if len(parts) > 3 and parts[2] == "artifacts":
        return f"run:{parts[1]}"
    if len(parts) > 4 and parts[1] == "models" and parts[3] == "artifacts":
        return f"logged-model:{parts[2]}"
    return None


def _entries(tx: Connection, project: str, prefix: str) -> Iterator[FolderEntry]:
    after, end = prefix, prefix[:-1] + _BEHIND_SLASH if prefix else _LAST
    while True:
        rows = tx.execute(_WITHIN.limit(_AT_ONCE), {"project": project, "after": after, "end": end}).all()
        folder = None
        for row in rows:
            name, slash, _ = row.path[len(prefix) :].partition(_SLASH)
            if not slash:
                yield FolderEntry(name=name, is_dir=False, size_bytes=row.size_bytes)
            elif name != folder:
                folder = name
                yield FolderEntry(name=name, is_dir=True)
        if len(rows) < _AT_ONCE:
            return
        # A folder that fills the rest is stepped over whole, however much it holds.
        last = rows[-1].path
        after = f"{prefix}{folder}/{_LAST}" if folder is not None and last.startswith(f"{prefix}{folder}/") else last


def _check_free(tx: Connection, project: str, path: str) -> None:
    inside = {"project": project, "first": path + _SLASH, "end": path + _BEHIND_SLASH}
    if _FIRST_WITHIN.run(tx, inside).fetchone() is not None:
        raise FileInTheWay(path, path)
    parent = path.rpartition(_SLASH)[0]
    while parent:
        if _ONE.run(tx, {"project": project, "path": parent}).fetchone() is not None:
            raise FileInTheWay(path, parent)
        parent = parent.rpartition(_SLASH)[0]
