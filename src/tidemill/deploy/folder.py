"""A folder whose new files become rows of a dataset: each taken once, when it is whole; small ones several at a time."""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.core.clock import wall
from tidemill.core.digest import digest_file
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.values import replace
from tidemill.datasets.intake import Taken
from tidemill.datasets.marks import AlreadyTaken, Mark, read_marks, write_marks
from tidemill.datasets.rows import Misfit, read_record
from tidemill.datasets.versions import find_newest, read_schema
from tidemill.deploy.arrivals import arrive
from tidemill.govern.workspace import Workspace

LOG = logging.getLogger("tidemill.ingest")
KINDS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
SETTLED_S = 2.0
UNENDED_S = 30.0
WHOLE, REFUSED = "whole", "refused: "
Rows = pa.Table | list[Any]


class _Piece(NamedTuple):
    """Rows of a file, and how far it is taken with them. alone: they are not all of it."""

    rows: Rows
    mark: Mark
    alone: bool


class Folder:
    """What of a folder is to be taken into a dataset. A file counts by its name and content: the same one again is not taken again.

    Parquet is whole when its footer is there, text when nobody has written to it for two seconds (half a minute where its last line does
    not end). Names that begin with a dot are left alone, so that who writes under one and renames then is never read too early.
    """

    def __init__(self, ws: Workspace, dataset: str, path: Path, *, rows: int) -> None:
        """rows: the most that are taken at once. Raises NotFound."""
        if not path.is_dir():
            raise NotFound(f"there is no folder {path} to watch; make it, or name a topic as in redis://127.0.0.1:6379/0/flights")
        self._ws, self._dataset, self._path, self._rows = ws, dataset, path.resolve(), rows
        self._source = f"folder {self._path}"
        self._seen: dict[Path, tuple[int, int]] = {}  # size and time of files that need no look any more
        self._warned: dict[Path, tuple[int, int]] = {}
        self.refused: list[str] = []
        self.waiting = 0
        """Files that are to be taken still, half-written ones among them."""
        self.growing = False
        """Whether some text may be whole in a moment."""

    def take(self) -> Iterator[tuple[Taken, list[Misfit]]]:
        """Take what is whole, and yield what came of each portion. A file of which nothing can be made is refused, and told once."""
        held: list[_Piece] = []
        for piece in self._pieces():
            if held and (piece.alone or not _joins(held, piece, self._rows)):
                yield from self._take(held)
                held = []
            held.append(piece)
            if piece.alone:
                yield from self._take(held)
                held = []
        yield from self._take(held)

    def _take(self, pieces: list[_Piece]) -> Iterator[tuple[Taken, list[Misfit]]]:
        if not pieces:
            return
        try:
            told = arrive(self._ws, self._dataset, _joined(pieces), on_bad="aside", marks=[piece.mark for piece in pieces])
        except AlreadyTaken:  # another one watches the same folder: what is left is told when it is looked at next
            self._seen.clear()
            self.growing = True
            return
        except Invalid as error:
            if len(pieces) > 1:
                for piece in pieces:
                    yield from self._take([piece])
                return
            self._refuse(pieces[0].mark, str(error))
            return
        self.waiting -= sum(piece.mark.told == WHOLE for piece in pieces)
        yield told

    def _refuse(self, mark: Mark, reason: str) -> None:
        name = mark.mark.rpartition(" ")[0]
        LOG.warning("file %s is not taken: %s", name, reason)
        self.refused.append(f"{name}: {reason}")
        with self._ws.catalog.transaction() as tx:
            write_marks(tx, self._ws, self._dataset, [Mark(source=mark.source, mark=mark.mark, before=mark.before, told=REFUSED + reason)])
        self.waiting -= 1

    def _pieces(self) -> Iterator[_Piece]:
        """Yield the rows of the files that are whole, and were not taken yet, by their names."""
        stamps = {path: stamp for path in sorted(self._path.iterdir()) if (stamp := _stamp(path)) is not None}
        found = [(path, stamp) for path, stamp in stamps.items() if self._seen.get(path) != stamp]
        self.waiting, self.growing = len(found), False
        marks = read_marks(self._ws, self._dataset, self._source) if found else {}
        for path, stamp in found:
            if not self._whole(path, stamp):
                continue
            name = f"{path.name} {digest_file(path)}"
            self._seen[path] = stamp
            before = marks.get(name)
            if before == WHOLE or (before or "").startswith(REFUSED):
                self.waiting -= 1
                continue
            yield from self._of_file(path, Mark(source=self._source, mark=name, before=before, told=WHOLE))

    def _of_file(self, path: Path, mark: Mark) -> Iterator[_Piece]:
        done, place, before = int(mark.before or 0), 0, mark.before
        newest = find_newest(self._ws, self._dataset)
        try:
            for rows, last in _with_last(_rows_of(path, self._rows, read_schema(self._ws, newest) if newest is not None else None)):
                begin, place = place, place + len(rows)
                if place <= done and not last:
                    continue  # taken before this process began
                told = WHOLE if last else str(place)
                yield _Piece(rows[max(0, done - begin) :], replace(mark, before=before, told=told), alone=begin > 0 or not last)
                before = told
        except (pa.ArrowException, OSError) as error:
            self._refuse(replace(mark, before=before), f"it cannot be read: {error}")

    def _whole(self, path: Path, stamp: tuple[int, int]) -> bool:
        if path.suffix == ".parquet":
            try:
                pq.read_metadata(path)
            except (pa.ArrowException, OSError) as error:
                if self._warned.get(path) != stamp:
                    LOG.info("file %s is left until it is whole: %s", path.name, error)
                self._warned[path] = stamp
                return False
            return True
        age_s = wall() - stamp[1] / 1e9
        whole = age_s >= (SETTLED_S if _ended(path) else UNENDED_S)
        self.growing |= not whole and age_s < SETTLED_S
        return whole


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return size and time of a file that may be taken, None for anything else."""
    if path.name.startswith(".") or path.suffix not in KINDS:
        return None
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return (stat.st_size, stat.st_mtime_ns) if path.is_file() else None


def _ended(path: Path) -> bool:
    """Return whether the last line of a text ends."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read(1) == b"\n"


def _rows_of(path: Path, most: int, schema: pa.Schema | None) -> Iterator[Rows]:
    """Yield the rows of a file, about so many at a time. Raises what Arrow raises, OSError."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from (pa.Table.from_batches([batch]) for batch in file.iter_batches(most))
    elif path.suffix in (".csv", ".tsv"):
        yield from _csv_rows(path, most, schema)
    else:
        with path.open("rb") as text:
            lines = (line for line in text if line.strip())
            while some := [read_record(line) for line in islice(lines, most)]:
                yield some


def _csv_rows(path: Path, most: int, schema: pa.Schema | None) -> Iterator[pa.Table]:
    from pyarrow import csv  # (a third of a second, needed for text only)

    parse = csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
    convert = csv.ConvertOptions(column_types={field.name: field.type for field in schema} if schema is not None else None)
    held: list[pa.RecordBatch] = []
    with csv.open_csv(path, parse_options=parse, convert_options=convert) as batches:
        for batch in batches:
            held.append(batch)
            if sum(each.num_rows for each in held) >= most:
                yield pa.Table.from_batches(held)
                held = []
    if held:
        yield pa.Table.from_batches(held)


def _with_last(portions: Iterator[Rows]) -> Iterator[tuple[Rows, bool]]:
    """Yield portions, and whether each is the last; of none an empty one."""
    before: Rows | None = None
    for portion in portions:
        if before is not None:
            yield before, False
        before = portion
    yield (before if before is not None else []), True


def _joins(held: Sequence[_Piece], piece: _Piece, most: int) -> bool:
    """Return whether the rows of a file may be taken together with those of others."""
    if sum(len(each.rows) for each in held) + len(piece.rows) > most:
        return False
    one, other = held[0].rows, piece.rows
    if isinstance(one, pa.Table) and isinstance(other, pa.Table):
        return bool(one.schema.equals(other.schema))
    return isinstance(one, list) and isinstance(other, list)


def _joined(pieces: Sequence[_Piece]) -> Rows:
    tables = [piece.rows for piece in pieces if isinstance(piece.rows, pa.Table)]
    return pa.concat_tables(tables) if tables else [record for piece in pieces if isinstance(piece.rows, list) for record in piece.rows]
