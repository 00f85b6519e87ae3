"""What a version holds: files as they were given, byte for byte, or tables that are written as Parquet; and how either is read again."""

import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.core.digest import digest_file, digest_value
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import Digest
from tidemill.datasets.places import Found, find_files
from tidemill.datasets.tables import SUFFIXES, Shape, columns_of, derive, is_table, is_text, measure, read_text, schema_of, unified
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import Tree, TreeEntry

Watch = Callable[[int, int], None]
"""Is told how many of how many are done."""

FEW = 32
"""So many files of a table are kept each by itself, so that it can be read where it lies; more of them share files of the store."""
_SMALL_BYTES = 1 << 20
_OWN = "part-"


class Content(NamedTuple):
    """Files that are stored: what they are as one table, no columns and no rows where they are none, and by how much the store grew."""

    tree: Tree
    columns: dict[str, str]
    rows: int
    new_bytes: int


def store_table(ws: Workspace, table: pa.Table, *, like: Tree | None = None) -> Content:
    """Store a table as one Parquet file; like: what the version before holds, of which only what differs is stored."""
    digest, new_bytes = put_parquet(ws, table, like=like.entries[0].digest if like is not None and len(like.entries) == 1 else None)
    return Content(named(ws, [digest]), columns_of(table.schema), table.num_rows, new_bytes)


def store_files(
    ws: Workspace, files: Mapping[str, Found], *, like: Tree | None = None, known: Mapping[str, Digest] | None = None,
    as_table: bool | None = None, watch: Watch | None = None,
) -> Content:  # fmt: skip
    """Store files under their names, byte for byte.

    like: what the version before holds; of a large file that was in it only what differs is stored. known: digests of files that need
    not be read if the store has them. as_table: whether they are the rows of one table; unless told, when all are of a kind that is, by
    their names. Raises Invalid for a table that cannot be read, Conflict for a file that changes meanwhile.
    """
    strange = next((name for name in files if not is_table(name)), None)
    if strange is not None and as_table:
        raise Invalid(
            f"{files[strange].path} is of a kind that is not understood; expected {', '.join(SUFFIXES)}, or say that it is just a file"
        )
    table = strange is None if as_table is None else as_table
    shapes = {name: _shape(ws, name, Path(file.path)) for name, file in files.items()} if table else {}
    schema = unified({files[name].path: shape.shape for name, shape in shapes.items()}) if table else None
    before = {entry.path: entry.digest for entry in like.entries} if like is not None else {}
    if like is not None and len(files) == len(before) == 1:
        before = dict.fromkeys(files, next(iter(before.values())))
    there = ws.objects.renew_all(known.values()) if known else set()
    entries, alone = [], table and len(files) <= FEW
    new_bytes = 0
    with ws.objects.batch() as batch:
        for number, (name, file) in enumerate(files.items()):
            digest = known.get(name) if known else None
            if digest is None or digest not in there:
                if alone and file.stamp.size <= _SMALL_BYTES:
                    digest, more = _put_alone(ws, Path(file.path))
                    new_bytes += more
                else:
                    digest = batch.put_file(Path(file.path), like=before.get(name))
            entries.append(TreeEntry(path=name, digest=digest, size_bytes=file.stamp.size))
            if watch is not None:
                watch(number + 1, len(files))
    for name, made in shapes.items():
        made.settle(ws, next(entry.digest for entry in entries if entry.path == name), schema)
    rows = sum(made.shape.rows for made in shapes.values())
    return Content(Tree(entries=tuple(entries)), columns_of(schema) if schema is not None else {}, rows, batch.new_bytes + new_bytes)


def table_paths(ws: Workspace, tree: Tree, columns: Mapping[str, str], *, what: str) -> list[Path]:
    """Return local Parquet files that together hold a table's rows, in order. Raises Invalid when the files are no table."""
    if not columns:
        kinds = ", ".join(sorted({PurePosixPath(entry.path).suffix or entry.path for entry in tree.entries})[:5])
        raise Invalid(f"{what} holds {len(tree.entries)} files ({kinds}) and is no table; write them out with: tidemill data get")
    found = []
    for entry in tree.entries:
        if not is_text(entry.path):
            found.append(ws.objects.local_path(entry.digest))
            continue
        place = _derived(ws, entry.digest, columns)
        if not place.exists():
            derive(ws.objects.local_path(entry.digest), place, form=PurePosixPath(entry.path).suffix, types=schema_of(columns))
        found.append(place)
    return found


def read_files(source: Path | Sequence[Path]) -> pa.Table:
    """Return the rows of files as one table. Raises Invalid, NotFound."""
    files = [source] if isinstance(source, Path) else list(source)
    if not files:
        raise Invalid("a dataset needs at least one file, got none")
    tables = {str(path): read_file(path) for path in files}
    schema = unified({name: Shape(table.schema.remove_metadata(), table.num_rows) for name, table in tables.items()})
    return pa.concat_tables([table.cast(schema) for table in tables.values()])


def read_file(path: Path) -> pa.Table:
    """Return the rows of a file. Raises Invalid, NotFound."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}; give the path of a .parquet or .csv file")
    if not is_table(path.name):
        raise Invalid(f"{path} is of a kind that is not understood; expected {', '.join(SUFFIXES)}")
    try:
        return read_text(path, form=path.suffix) if is_text(path.name) else pq.read_table(path)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} could not be read as {path.suffix.lstrip('.')}: {str(error).splitlines()[0]}") from error


def put_parquet(ws: Workspace, table: pa.Table, *, like: Digest | None = None) -> tuple[Digest, int]:
    """Store a table as a Parquet file; return its digest, and by how many bytes the store grew.

    A large one is compressed by Snappy, which leaves what is the same the same, where zstd would leave nothing to share.
    """
    with tempfile.TemporaryDirectory(dir=ws.state) as folder, ws.objects.batch() as batch:
        path = Path(folder) / "part.parquet"
        if table.nbytes <= _SMALL_BYTES:
            pq.write_table(table, path, compression="zstd", compression_level=1)
        else:
            pq.write_table(table, path, compression="snappy", use_content_defined_chunking=True)
        if path.stat().st_size <= _SMALL_BYTES:
            return _put_alone(ws, path)
        return batch.put_file(path, like=like), batch.new_bytes


def named(ws: Workspace, digests: Sequence[Digest], *, behind: Tree | None = None) -> Tree:
    """Return the tree of a table's own files in their order; behind: files that a user gave, which they come behind."""
    first = behind.entries if behind is not None else ()
    mark = "~" if first and first[-1].path >= _OWN else ""
    while first and mark and first[-1].path >= f"{mark}{_OWN}":
        mark += "~"
    own = [(f"{mark}{_OWN}{number:05d}.parquet", digest) for number, digest in enumerate(digests)]
    return Tree(entries=(*first, *(TreeEntry(path=path, digest=digest, size_bytes=ws.objects.size(digest)) for path, digest in own)))


def own_parts(tree: Tree) -> tuple[Tree, list[Digest]]:
    """Return the files that a user gave, and behind them those that were appended or written from tables, which may be gathered."""
    own = [entry.path.lstrip("~").startswith(_OWN) and entry.path.endswith(".parquet") for entry in tree.entries]
    count = len(own) - 1 - own[::-1].index(False) + 1 if False in own else 0
    return Tree(entries=tree.entries[:count]), [entry.digest for entry in tree.entries[count:]]


class _Made(NamedTuple):
    """What a file is as a table, and where its Parquet form lies meanwhile, if it needs one."""

    shape: Shape
    path: Path
    form: str
    scratch: Path | None

    def settle(self, ws: Workspace, digest: Digest, schema: pa.Schema | None) -> None:
        """Keep the Parquet form under the digest of the file, in the types of the whole table."""
        if self.scratch is None or schema is None:
            return
        if self.shape.schema != schema:
            derive(self.path, self.scratch, form=self.form, types=schema)
        place = _derived(ws, digest, columns_of(schema))
        place.parent.mkdir(parents=True, exist_ok=True)
        self.scratch.replace(place)


def _shape(ws: Workspace, name: str, path: Path) -> _Made:
    form = PurePosixPath(name).suffix
    if not is_text(name):
        return _Made(measure(path), path, form, None)
    scratch = ws.state / "cache" / "tables" / f"{secrets.token_hex(8)}~"
    return _Made(derive(path, scratch, form=form), path, form, scratch)


def _derived(ws: Workspace, digest: Digest, columns: Mapping[str, str]) -> Path:
    """Return where the Parquet form of a text file lies: it can be made again at any time."""
    return ws.state / "cache" / "tables" / f"{digest}-{digest_value(dict(columns))[:8]}.parquet"


def _put_alone(ws: Workspace, path: Path) -> tuple[Digest, int]:
    """Store a small file by itself; return by how much the store grew, too."""
    digest = digest_file(path)
    size = 0 if ws.objects.has(digest) else path.stat().st_size
    return ws.objects.put_file(path), size


def files_at(source: Path | Sequence[Path] | Mapping[str, Path]) -> dict[str, Found]:
    """Return the files that a caller means, by their names: of a mapping the names that it says."""
    if isinstance(source, Mapping):
        return {name: next(iter(find_files([path]).values())) for name, path in sorted(source.items())}
    return find_files([source] if isinstance(source, Path) else list(source))
