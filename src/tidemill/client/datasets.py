"""Datasets over the wire."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from tidemill.client.call import Caller, Doc, Docs, segment
from tidemill.core.codec import encode
from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.ids import new_id


class Datasets:
    """`client.datasets`: versions of tables. A reference is NAME (the newest version) or NAME@VERSION."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def add(self, name: str, source: Path | str | Any, *, description: str = "", reason: str = "") -> Doc:
        """Make a version of exactly this content: a .parquet, .csv or .tsv file, or a frame of pandas, Polars, DuckDB or Arrow.

        Rows that break the dataset's contract are refused (Invalid) or set aside, as it says; the answer counts them.
        """
        with opened_frame(source) as (file, form):
            place = f"/datasets/{segment(name)}/versions"
            return self._caller.upload("POST", place, file, form=form, description=description, reason=reason)

    def append(self, name: str, source: Path | str | Any, *, once: str | None = None, reason: str = "") -> Doc:
        """Make a version that has the newest one's rows and then these, and say how many were new, duplicates, and set aside.

        source: as for `add`, or a list of rows as dicts. A row that is there already, by the dataset's key, is a duplicate. once: an id for
        these rows: with the same one they count once, key or not.
        """
        place, told = f"/datasets/{segment(name)}/rows", once or new_id()
        if isinstance(source, Sequence) and not isinstance(source, str):
            return self._caller.upload("POST", place, encode(list(source)), once=told, form="json", reason=reason)
        with opened_frame(source) as (file, form):
            return self._caller.upload("POST", place, file, once=told, form=form, reason=reason)

    def set_key(self, name: str, columns: Sequence[str], *, reason: str = "") -> Doc:
        """Say which columns tell one row of a dataset from another, once and for all: rows that arrive then count once each."""
        return self._caller.put(f"/datasets/{segment(name)}/key", {"columns": list(columns), "reason": reason})

    def key(self, name: str) -> Doc | None:
        """Return what tells the rows of a dataset apart, None when nobody has said."""
        return self._caller.get(f"/datasets/{segment(name)}/key")

    def set_contract(self, name: str, contract: Any, *, reason: str = "") -> Doc:
        """Hold all rows that come in from now on to a contract: a value of `datasets.contracts`, or its fields."""
        return self._caller.put(f"/datasets/{segment(name)}/contract", {"contract": contract, "reason": reason})

    def contract(self, name: str) -> Doc | None:
        """Return what a dataset promises, None when nothing."""
        return self._caller.get(f"/datasets/{segment(name)}/contract")

    def list(self) -> Docs:
        """Return all datasets by name."""
        return self._caller.get("/datasets")

    def versions(self, name: str, *, limit: int = 100) -> Docs:
        """Return the versions of a dataset, newest first."""
        return self._caller.get(f"/datasets/{segment(name)}/versions", limit=limit)

    def diff(self, before: str, after: str, *, key: str | Sequence[str] = ()) -> Doc:
        """Return how one version differs from another: files, columns, rows with examples, distributions. key: what tells rows apart."""
        names = key if isinstance(key, str) else ",".join(key)
        return self._caller.get(f"/dataset-versions/{segment(before)}/diff/{segment(after)}", key=names)

    def get(self, reference: str, *, at: datetime | None = None) -> Doc:
        """Return one version; of NAME the newest, as of `at` when given. Raises NotFound."""
        return self._caller.get(f"/dataset-versions/{segment(reference)}", at=at)

    def describe(self, reference: str, *, fresh: bool = False) -> Doc:
        """Return what the columns of a version are like: measured once and kept, or again when fresh. Raises NotFound, Invalid."""
        return self._caller.get(f"/dataset-versions/{segment(reference)}/profile", fresh=fresh)


@contextmanager
def opened_frame(source: Any) -> Iterator[tuple[BinaryIO, str]]:
    """Yield a file to send and the form that it has; a frame is written as Parquet first."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix not in (".parquet", ".csv", ".tsv") or not path.is_file():
            raise Invalid(f"{path} is not a .parquet, .csv or .tsv file that can be read; give the path of one, or a frame")
        with path.open("rb") as file:
            yield file, path.suffix.lstrip(".")
        return
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:  # a client without pyarrow sends files only
        raise ExtraMissing("pyarrow", "ml") from error
    if not hasattr(source, "__arrow_c_stream__"):
        raise Invalid(f"a {type(source).__name__} cannot be sent; expected a file's path, or a frame of pandas, Polars, DuckDB or Arrow")
    with tempfile.TemporaryFile() as file:
        parquet.write_table(pa.table(source), file, compression="zstd", compression_level=1)
        file.seek(0)
        yield file, "parquet"
