"""What the columns of a table are like: their measures, taken from Parquet files within a memory bound. Knows no catalog."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.core.clock import from_micros
from tidemill.core.errors import Invalid
from tidemill.core.values import Value, field
from tidemill.datasets.tables import measure

Scalar = str | int | float | bool | None
Kind = Literal["number", "flag", "moment", "text", "other"]
Floats = NDArray[np.float64]

MEMORY = "512MB"
SMALL_CELLS = 5_000_000
"""A table of no more cells is held in memory, and all of it is measured exactly."""
FEW_VALUES = 50_000
"""Of a column that has no more values each is counted."""
HASHES = 1_000_000
"""About so many hashes of rows are held at once to find duplicates."""
CORRELATED_MAX = 100
SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 20
TOP = 10
STRONGEST = 20
TEXT_MAX = 100
_AT_ONCE = 50
_BATCH_ROWS = 1 << 16
_WHOLE = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"})


class TopValue(Value, frozen=True, kw_only=True):
    """A value and how many rows have it."""

    value: Scalar
    count: int


class Histogram(Value, frozen=True, kw_only=True):
    """How many values lie in bins of equal width from the least to the greatest; edges: one more than counts, moments in ISO 8601."""

    edges: tuple[float | str, ...]
    counts: tuple[int, ...]


class Numbers(Value, frozen=True, kw_only=True):
    """What only numbers have. Mean and deviation (n - 1) are of the finite ones; None where there are too few, or it is too large."""

    mean: float | None
    std: float | None
    zeros: int
    negative: int
    infinite: int
    nan: int


class Lengths(Value, frozen=True, kw_only=True):
    """How many characters texts have."""

    least: int
    mean: float
    greatest: int


class ColumnProfile(Value, frozen=True, kw_only=True):
    """One column. Least, greatest, quantiles and histogram leave out what is missing, NaN or infinite; moments are in ISO 8601.

    distinct: how many values, missing ones left out; within a few percent unless distinct_exact. quantiles: by share, interpolated;
    near unless quantiles_exact. top: the commonest values with exact counts, of a column that is not distinct_exact those that were likely.
    """

    name: str
    type: str
    kind: Kind
    missing: int
    distinct: int
    distinct_exact: bool
    constant: bool
    least: Scalar = None
    greatest: Scalar = None
    numbers: Numbers | None = None
    lengths: Lengths | None = None
    quantiles: dict[str, float | str] = field(default_factory=dict)
    quantiles_exact: bool = True
    histogram: Histogram | None = None
    top: tuple[TopValue, ...] = ()


class Correlation(Value, frozen=True, kw_only=True):
    """Pearson's r of two columns over the rows in which both are finite."""

    left: str
    right: str
    r: float
    rows: int


class Measures(Value, frozen=True, kw_only=True):
    """A table: its columns; the strongest correlations among the first `correlated` numbers and flags; rows that another row repeats.

    duplicate_rows: estimated from a sample by hash unless duplicates_exact.
    """

    rows: int
    columns: tuple[ColumnProfile, ...]
    correlations: tuple[Correlation, ...]
    correlated: int
    duplicate_rows: int
    duplicates_exact: bool


class _Column(NamedTuple):
    """A column as DuckDB has it: its name there, and its kind."""

    name: str
    type: str
    at: str
    held: str
    kind: Kind
    source: str

    @property
    def zoned(self) -> bool:
        """Whether its moments are of a zone."""
        return self.held.startswith("TIMESTAMPTZ") or "TIME ZONE" in self.held

    @property
    def number(self) -> str:
        """The expression of its values as DOUBLE, moments in microseconds since 1970."""
        if self.kind == "moment":
            moment = f"CAST({self.at} AS TIMESTAMP WITH TIME ZONE)" if self.zoned else f"CAST({self.at} AS TIMESTAMP)"
            return f"CAST(epoch_us({moment}) AS DOUBLE)"
        return f"CAST(CAST({self.at} AS INTEGER) AS DOUBLE)" if self.kind == "flag" else f"CAST({self.at} AS DOUBLE)"


def measure_files(paths: Sequence[Path], columns: dict[str, str], *, folder: Path) -> Measures:
    """Return the measures of the table that Parquet files hold together; columns: name to type as told, in any order.

    Within half a gigabyte for DuckDB, which spills to folder, and a batch of 100 columns for NumPy. Raises Invalid.
    """
    config: dict[str, Any] = {"memory_limit": MEMORY, "temp_directory": str(folder), "preserve_insertion_order": False}
    try:
        with duckdb.connect(config={**config, "autoinstall_known_extensions": False, "autoload_known_extensions": False}) as connection:
            rows, found = _opened(connection, paths, columns)
            small = rows * len(found) <= SMALL_CELLS
            if small:
                connection.execute("CREATE TEMP TABLE held AS SELECT * FROM t")
                connection.execute("CREATE OR REPLACE TEMP VIEW t AS SELECT * FROM held")
                found = _narrow(connection, found)
            told = {}
            for start in range(0, len(found), _AT_ONCE):
                told.update(_told(connection, found[start : start + _AT_ONCE], exactly=small))
            moments, correlations, compared = _moments(connection, found, told)
            profiles = tuple(_profile(connection, column, rows, told[column.at], moments.get(column.at), small) for column in found)
            duplicates, step = _duplicates(connection, found, rows)
    except duckdb.Error as error:
        raise Invalid(f"the table could not be measured; DuckDB says: {str(error).splitlines()[0]}; is each file whole?") from error
    return Measures(
        rows=rows, columns=profiles, correlations=correlations, correlated=compared, duplicate_rows=duplicates, duplicates_exact=step == 1
    )  # fmt: skip


def _opened(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path], columns: dict[str, str]) -> tuple[int, list[_Column]]:
    """Make the view `t` of the files, its columns named by number: DuckDB takes `a` and `A` for one."""
    schemas = [measure(path).schema for path in paths]
    unlike = len(set(schemas)) > 1
    relation = connection.read_parquet([str(path) for path in paths], union_by_name=unlike)
    names = [f"c{number}" for number in range(len(relation.columns))]
    relation.create_view("given")
    connection.execute(f"CREATE TEMP VIEW t AS SELECT * FROM given AS g({', '.join(names)})")
    held = [str(kind) for kind in relation.types]
    told = zip([(name, columns[name]) for name in schemas[0].names], names, held, strict=True)
    found = [_Column(name, kind, at, duck, _kind(duck), "t") for (name, kind), at, duck in told]
    return int(_one(connection, "SELECT count(*) FROM t")[0]), found


def _narrow(connection: duckdb.DuckDBPyConnection, columns: Sequence[_Column]) -> list[_Column]:
    """Hold few columns a table: a query of one column costs as much as the table has columns."""
    found: list[_Column] = []
    for start in range(0, len(columns), _AT_ONCE):
        group, source = columns[start : start + _AT_ONCE], f"s{start}"
        connection.execute(f"CREATE TEMP TABLE {source} AS SELECT {', '.join(column.at for column in group)} FROM t")
        found += [column._replace(source=source) for column in group]
    return found


def _kind(held: str) -> Kind:
    if held in _WHOLE or held in ("FLOAT", "DOUBLE") or held.startswith("DECIMAL"):
        return "number"
    if held == "DATE" or held.startswith("TIMESTAMP"):
        return "moment"
    return "flag" if held == "BOOLEAN" else "text" if held == "VARCHAR" or held.startswith("ENUM") else "other"


def _told(connection: duckdb.DuckDBPyConnection, columns: Sequence[_Column], *, exactly: bool) -> dict[str, dict[str, Any]]:
    """Return what one pass over some columns tells of each."""
    asked: list[tuple[str, str, str]] = []
    for column in columns:
        at, x = column.at, column.number
        asked += [(at, "present", f"count({at})"), (at, "distinct", f"approx_count_distinct({at})")]
        if column.kind in ("number", "moment"):
            finite = f"FILTER (WHERE isfinite({x}))"
            asked += [(at, "low", f"min({x}) {finite}"), (at, "high", f"max({x}) {finite}")]
            quantile = "quantile_cont" if exactly else "approx_quantile"
            asked.append((at, "quantiles", f"{quantile}({x}, {list(SHARES)}) {finite}"))
        if column.kind == "number":
            asked += [(at, "zeros", f"count(*) FILTER (WHERE {x} = 0)"), (at, "negative", f"count(*) FILTER (WHERE {x} < 0)")]
            asked += [(at, "infinite", f"count(*) FILTER (WHERE isinf({x}))"), (at, "nan", f"count(*) FILTER (WHERE isnan({x}))")]
        if column.held in _WHOLE or column.kind in ("flag", "text"):
            asked += [(at, "least", f"min({at})"), (at, "greatest", f"max({at})")]
        if column.kind == "text":
            text = f"length(CAST({at} AS VARCHAR))"
            asked += [(at, "shortest", f"min({text})"), (at, "length", f"avg({text})"), (at, "longest", f"max({text})")]
    values = _one(connection, f"SELECT {', '.join(expression for _, _, expression in asked)} FROM {columns[0].source}")
    found: dict[str, dict[str, Any]] = {column.at: {} for column in columns}
    for (at, what, _), value in zip(asked, values, strict=True):
        found[at][what] = value
    return found


class _Moments(NamedTuple):
    """Mean, deviation and counts by bin of one column."""

    mean: float | None
    std: float | None
    histogram: Histogram | None


def _moments(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[_Column], told: dict[str, dict[str, Any]]
) -> tuple[dict[str, _Moments], tuple[Correlation, ...], int]:
    """Return the moments of columns, and the correlations among the first hundred numbers and flags, in one more pass."""
    numbers = [column for column in columns if column.kind in ("number", "flag")]
    ordered = numbers + [column for column in columns if column.kind == "moment"]
    found: dict[str, _Moments] = {}
    strongest: tuple[Correlation, ...] = ()
    for start in range(0, len(ordered), CORRELATED_MAX):
        group = ordered[start : start + CORRELATED_MAX]
        spans = [_span(told[column.at]) for column in group]
        together = Comoments(len(group))
        counts = [np.zeros(BINS, dtype=np.int64) for _ in group]
        for batch in _batches(connection, group):
            together.add(batch)
            for number, span in enumerate(spans):
                if span is not None:
                    counts[number] += np.histogram(batch[:, number], bins=BINS, range=span)[0]  # NaN and what is infinite lie outside
        means, stds = together.means(), together.stds()
        for number, column in enumerate(group):
            histogram = _histogram(column, told[column.at], spans[number], counts[number])
            found[column.at] = _Moments(_finite(means[number]), _finite(stds[number]), histogram)
        if start == 0:
            names = [column.name for column in group if column.kind != "moment"]
            strongest = _strongest(together, names)
    return found, strongest, min(len(numbers), CORRELATED_MAX)


def _batches(connection: duckdb.DuckDBPyConnection, columns: Sequence[_Column]) -> Iterator[Floats]:
    chosen = ", ".join(f"{column.number} AS {column.at}" for column in columns)
    reader: pa.RecordBatchReader = connection.sql(f"SELECT {chosen} FROM t").to_arrow_reader(_BATCH_ROWS)
    for batch in reader:
        yield np.column_stack([column.to_numpy(zero_copy_only=False).astype(np.float64) for column in batch.columns])


class Comoments:
    """Means, variances and products of deviations of each pair of k columns over the rows in which both are finite, batch by batch.

    Batches are joined as in Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances (1979);
    entry [i, j] of means and squares is of column i over the rows that j has too.
    """

    def __init__(self, width: int) -> None:
        self.rows, self._means = np.zeros((width, width)), np.zeros((width, width))
        self._squares, self._products = np.zeros((width, width)), np.zeros((width, width))
        self._largest = np.zeros(width)

    def add(self, batch: Floats) -> None:
        """Take rows (n, k) in; NaN and what is infinite are missing."""
        with np.errstate(all="ignore"):  # what is too large to square comes out as no number, and is told as None
            there = np.isfinite(batch)
            present = there.astype(np.float64)
            values = np.where(there, batch, 0.0)
            self._largest = np.maximum(self._largest, np.abs(values).max(axis=0, initial=0.0))
            near = values.sum(axis=0) / np.maximum(present.sum(axis=0), 1)
            values = np.where(there, batch - near, 0.0)
            rows = present.T @ present
            counted = np.maximum(rows, 1)
            sums = values.T @ present
            squares = (values * values).T @ present - sums * sums / counted
            products = values.T @ values - sums * sums.T / counted
            total = self.rows + rows
            share = np.where(total > 0, rows / np.maximum(total, 1), 0.0)
            apart = np.where(rows > 0, near[:, None] + sums / counted - self._means, 0.0)
            self._squares += squares + apart * apart * self.rows * share
            self._products += products + apart * apart.T * self.rows * share
            self._means += apart * share
            self.rows = total

    def means(self) -> Floats:
        """Return the mean of each column, NaN for one without a value."""
        return np.where(np.diag(self.rows) > 0, np.diag(self._means), np.nan)

    def stds(self) -> Floats:
        """Return the deviation (n - 1) of each column, NaN for one of fewer than two values."""
        rows = np.diag(self.rows)
        with np.errstate(invalid="ignore"):
            return np.where(rows > 1, np.sqrt(np.maximum(np.diag(self._squares), 0) / np.maximum(rows - 1, 1)), np.nan)

    def correlations(self) -> Floats:
        """Return Pearson's r of each pair, NaN where one of them does not vary beyond the rounding of its values."""
        with np.errstate(all="ignore"):
            noise = self.rows * (8 * np.finfo(np.float64).eps * self._largest[:, None]) ** 2
            varies = (self._squares > noise) & (self._squares.T > noise.T) & (self.rows > 1)
            r = self._products / (np.sqrt(self._squares) * np.sqrt(self._squares.T))
            return np.where(varies & np.isfinite(r), np.clip(r, -1, 1), np.nan)


def _strongest(together: Comoments, names: Sequence[str]) -> tuple[Correlation, ...]:
    r = together.correlations()
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names)) if not math.isnan(r[i, j])]
    pairs.sort(key=lambda pair: -abs(r[pair]))
    return tuple(Correlation(left=names[i], right=names[j], r=float(r[i, j]), rows=int(together.rows[i, j])) for i, j in pairs[:STRONGEST])


def _span(told: dict[str, Any]) -> tuple[float, float] | None:
    """Return between what the bins of a column lie, None where there can be none."""
    low, high = told.get("low"), told.get("high")
    if low is None or high is None or not (high - low) / BINS > 0 or not math.isfinite(high - low):
        return None
    return (low, high) if bool(np.all(np.diff(np.linspace(low, high, BINS + 1)) > 0)) else None


def _histogram(column: _Column, told: dict[str, Any], span: tuple[float, float] | None, counts: NDArray[np.int64]) -> Histogram | None:
    if span is not None:
        edges = [float(edge) for edge in np.linspace(*span, BINS + 1)]
        return Histogram(edges=tuple(_value(column, edge) for edge in edges), counts=tuple(int(count) for count in counts))
    if told.get("low") is None or told["low"] != told["high"]:
        return None
    count = told["present"] - told.get("infinite", 0) - told.get("nan", 0)
    return Histogram(edges=(_value(column, told["low"]), _value(column, told["high"])), counts=(count,))


def _value(column: _Column, number: float) -> float | str:
    """Return a number of a column as it is told: a moment in ISO 8601, those beyond the years 1 to 9999 as the last of these."""
    if column.kind != "moment":
        return number
    try:
        moment = from_micros(round(number))
    except OverflowError:
        moment = datetime(9999, 12, 31, tzinfo=UTC) if number > 0 else datetime(1, 1, 1, tzinfo=UTC)
    return moment.isoformat() if column.zoned else moment.replace(tzinfo=None).isoformat()


def _profile(
    connection: duckdb.DuckDBPyConnection, column: _Column, rows: int, told: dict[str, Any], moments: _Moments | None, small: bool
) -> ColumnProfile:  # fmt: skip
    present, kind = told["present"], column.kind
    exact = small or told["distinct"] <= FEW_VALUES
    distinct, top = _counted(connection, column, exact=exact)
    low, high = told.get("low"), told.get("high")
    ends = (told["least"], told["greatest"]) if "least" in told else (low, high)
    if "least" not in told and low is not None and high is not None:
        ends = (_value(column, low), _value(column, high))
    quantiles = told.get("quantiles") or ()
    return ColumnProfile(
        name=column.name,
        type=column.type,
        kind=kind,
        missing=rows - present,
        distinct=distinct if exact else min(told["distinct"], present),
        distinct_exact=exact,
        constant=rows > 0 and (present == 0 or (present == rows and exact and distinct == 1)),
        least=_short(ends[0]),
        greatest=_short(ends[1]),
        numbers=_numbers(told, moments) if kind == "number" else None,
        lengths=Lengths(least=told["shortest"], mean=told["length"], greatest=told["longest"]) if told.get("length") is not None else None,
        quantiles={f"{share:g}": _value(column, each) for share, each in zip(SHARES, quantiles, strict=False) if math.isfinite(each)},
        quantiles_exact=small,
        histogram=moments.histogram if moments is not None else None,
        top=top,
    )


def _numbers(told: dict[str, Any], moments: _Moments | None) -> Numbers:
    return Numbers(
        mean=moments.mean if moments is not None else None, std=moments.std if moments is not None else None,
        zeros=told["zeros"], negative=told["negative"], infinite=told["infinite"], nan=told["nan"],
    )  # fmt: skip


def _counted(connection: duckdb.DuckDBPyConnection, column: _Column, *, exact: bool) -> tuple[int, tuple[TopValue, ...]]:
    """Return how many values a column has, and the commonest; unless exact, of those that a sketch holds for common."""
    at = column.at
    among = f"{at} IS NOT NULL" if exact else f"{at} IN (SELECT unnest(approx_top_k({at}, {2 * TOP})) FROM {column.source})"
    shown = at if column.kind in ("number", "flag") else f"CAST({at} AS VARCHAR)"
    counts = f"SELECT {at}, count(*) AS n, count(*) OVER () AS m FROM {column.source} WHERE {among} GROUP BY {at}"
    found = connection.execute(f"SELECT {shown}, n, m FROM ({counts}) ORDER BY n DESC, {at} LIMIT {TOP}").fetchall()
    distinct = int(found[0][2]) if found else 0
    return distinct, tuple(TopValue(value=_short(value), count=count) for value, count, _ in found)


def _duplicates(connection: duckdb.DuckDBPyConnection, columns: Sequence[_Column], rows: int) -> tuple[int, int]:
    """Return how many rows repeat another, and of how many hashes one was looked at."""
    step = 1 << max(0, math.ceil(math.log2(max(rows, 1) / HASHES)))
    hashes = f"SELECT hash({', '.join(column.at for column in columns)}) AS h FROM t"
    all_, apart = _one(connection, f"SELECT count(*), count(DISTINCT h) FROM ({hashes}) WHERE h & {step - 1} = 0")
    return (all_ - apart) * step, step


def _short(value: Any) -> Scalar:
    """Return a value as JSON has it: text cut to 100 characters, what is no finite number as text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value[:TEXT_MAX]
    return float(value) if math.isfinite(value) else str(float(value))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    rows: list[tuple[Any, ...]] = connection.execute(query).fetchall()  # fetchone would leave the connection in use
    return rows[0]
