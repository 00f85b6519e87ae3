"""What tells a dataset's rows apart: its declared key, and the keys of the rows that are there. Owns their tables.

Beside each file of a table lies an object with the sorted 128-bit hashes of its keys: 16 bytes a row, looked into where it lies (mapped,
not read), and made from the file's key columns when it is missing, which takes 16 bytes a row of the largest file. So a row is known in
any version that has it, however it came in. Two keys of one hash would be taken for one: among a billion the odds are below 1 in 10^20.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sqlalchemy import Column, PrimaryKeyConstraint, Table, delete, select

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, insert_new, upsert
from tidemill.core.codec import pack
from tidemill.core.errors import Conflict, Invalid
from tidemill.core.ids import Digest, check_name
from tidemill.core.values import Value
from tidemill.datasets.versions import DatasetVersion, find_newest
from tidemill.govern.workspace import Workspace
from tidemill.store.objects import ObjectNotFound
from tidemill.store.trees import read_tree

HASH_BYTES = 16
BATCH_ROWS = 1 << 16
Words = NDArray[np.uint64]
"""Hashes as rows of two words."""

DATASET_KEYS = Table(
    "dataset_keys",
    METADATA,
    Column("project", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("columns", JsonValue(tuple[str, ...]), nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "dataset"),
)

KEY_PARTS = Table(
    "dataset_key_parts",
    METADATA,
    Column("project", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("part", Text, nullable=False),
    Column("keys", Text, nullable=False),
    PrimaryKeyConstraint("project", "dataset", "part"),
)


class DatasetKey(Value, frozen=True, kw_only=True):
    """The columns that together tell one row of a dataset from another."""

    dataset: str
    columns: tuple[str, ...]
    actor: str
    created_at: datetime


class DatasetKeyed(EventBody, frozen=True, kw_only=True, tag="dataset.keyed"):
    """It was said what tells the rows of a dataset apart: from now on rows may arrive in portions, each counted once."""

    dataset: str
    columns: tuple[str, ...]


class KeySet(Conflict):
    """A dataset has another key already."""

    def __init__(self, name: str, columns: Sequence[str]) -> None:
        self.name, self.columns = name, tuple(columns)
        super().__init__(
            f"the rows of dataset {name!r} are told apart by {', '.join(columns)}, and were since the first; "
            "use that key, or take the rows into a dataset of another name"
        )


def set_key(ws: Workspace, name: str, columns: Sequence[str], *, reason: str = "") -> DatasetKey:
    """Say what tells the rows of a dataset apart, be it there or not. The same again changes nothing. Raises KeySet, Invalid."""
    ws.require("datasets.write", name)
    check_name(name, "dataset")
    if not columns or len(set(columns)) != len(columns):
        raise Invalid(f"the key of dataset {name!r} is {', '.join(columns) or 'empty'}; expected one column or several distinct ones")
    newest = find_newest(ws, name)
    if newest is not None and (missing := [column for column in columns if column not in newest.columns]):
        raise Invalid(f"dataset {name!r} has no column {', '.join(missing)} to tell rows apart by (it has: {', '.join(newest.columns)})")
    made = DatasetKey(dataset=name, columns=tuple(columns), actor=ws.actor.id, created_at=ws.clock.now())
    with ws.catalog.transaction() as tx:
        row = {"project": ws.project, "dataset": name, "columns": made.columns, "actor": made.actor, "created_at": made.created_at}
        if insert_new(tx, DATASET_KEYS, [row]):
            ws.record(tx, DatasetKeyed(dataset=name, columns=made.columns), subject=f"dataset:{name}", reason=reason)
    there = read_key(ws, name)
    assert there is not None, "it was written, or was there"
    if there.columns != made.columns:
        raise KeySet(name, there.columns)
    return there


def read_key(ws: Workspace, name: str) -> DatasetKey | None:
    """Return what tells the rows of a dataset apart, None when nobody has said."""
    ws.require("datasets.read", name)
    return next((key for key in list_keys(ws) if key.dataset == name), None)


def list_keys(ws: Workspace) -> list[DatasetKey]:
    """Return the keys of the datasets of this project, by dataset."""
    ws.require("datasets.read")
    with ws.catalog.reading() as tx:
        rows = tx.execute(select(DATASET_KEYS).where(DATASET_KEYS.c.project == ws.project).order_by(DATASET_KEYS.c.dataset)).all()
    return [DatasetKey(dataset=row.dataset, columns=row.columns, actor=row.actor, created_at=row.created_at) for row in rows]


def hashes_of(table: pa.Table, columns: Sequence[str]) -> Words:
    """Return the hash of each row's key, (n, 2). Rows of which a part of the key is missing have one too: they are to be left out."""
    parts = [_values(table.column(name)) for name in columns]
    words = b"".join([hashlib.blake2b(pack(values), digest_size=HASH_BYTES).digest() for values in zip(*parts, strict=True)])
    return np.frombuffer(words, dtype="<u8").reshape(table.num_rows, 2)


def first_ones(hashes: Words) -> NDArray[np.bool_]:
    """Return which rows are the first of their key among themselves."""
    first = np.zeros(len(hashes), dtype=np.bool_)
    first[np.unique(hashes, axis=0, return_index=True)[1]] = True
    return first


def already_there(ws: Workspace, version: DatasetVersion | None, columns: Sequence[str], hashes: Words) -> NDArray[np.bool_]:
    """Return which hashes are those of rows that a version has. What is known of a file is kept, and forgotten when the file is."""
    found = np.zeros(len(hashes), dtype=np.bool_)
    if version is None or not hashes.size:
        return found
    parts = [entry.digest for entry in read_tree(ws.objects, version.digest).entries]
    mine = (KEY_PARTS.c.project == ws.project) & (KEY_PARTS.c.dataset == version.name)
    with ws.catalog.reading() as tx:
        known: dict[str, Digest] = {row.part: Digest(row.keys) for row in tx.execute(select(KEY_PARTS).where(mine))}
    for part in parts:
        there = _stored(ws, known.get(part))
        if there is None:
            there = _sorted_keys(ws, part, columns)
            _remember(ws, version.name, part, there)
        found |= _among(hashes, there)
    if gone := sorted(set(known) - set(parts)):
        with ws.catalog.transaction() as tx:
            tx.execute(delete(KEY_PARTS).where(mine, KEY_PARTS.c.part.in_(gone)))
    return found


def _stored(ws: Workspace, keys: Digest | None) -> Words | None:
    if keys is None:
        return None
    try:
        path = ws.objects.local_path(keys)
    except ObjectNotFound:
        return None
    return np.memmap(path, dtype="<u8", mode="r").reshape(2, -1).T if path.stat().st_size else np.empty((0, 2), dtype=np.uint64)


def _remember(ws: Workspace, name: str, part: Digest, keys: Words) -> None:
    with tempfile.NamedTemporaryFile(dir=ws.state) as file:
        np.ascontiguousarray(keys.T).tofile(file)
        file.flush()
        digest = ws.objects.put_file(Path(file.name))
    with ws.catalog.transaction() as tx:
        upsert(tx, KEY_PARTS, [{"project": ws.project, "dataset": name, "part": part, "keys": digest}])


def _sorted_keys(ws: Workspace, part: Digest, columns: Sequence[str]) -> Words:
    with pq.ParquetFile(ws.objects.local_path(part)) as file:
        found = [hashes_of(pa.Table.from_batches([batch]), columns) for batch in file.iter_batches(BATCH_ROWS, columns=list(columns))]
    whole = np.concatenate([np.empty((0, 2), dtype=np.uint64), *found])
    return whole[np.argsort(whole[:, 0], kind="stable")]


def _among(hashes: Words, there: Words) -> NDArray[np.bool_]:
    """Return which hashes stand in an array that is sorted by their first words."""
    first, second = there[:, 0], there[:, 1]
    places = np.searchsorted(first, hashes[:, 0])
    found = np.zeros(len(hashes), dtype=np.bool_)
    left = np.arange(len(hashes))
    while left.size:  # once, but for hashes that are alike in their first word
        left = left[places[left] < len(there)]
        left = left[first[places[left]] == hashes[left, 0]]
        same = second[places[left]] == hashes[left, 1]
        found[left[same]] = True
        left = left[~same]
        places[left] += 1
    return found


def _values(column: Any) -> list[Any]:
    """Return values that are packed alike, whatever the column's precision of time."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    elif pa.types.is_date32(kind) or pa.types.is_time32(kind):
        column = column.cast(pa.int32())
    elif pa.types.is_temporal(kind):
        column = column.cast(pa.int64())
    return list(column.to_pylist())
