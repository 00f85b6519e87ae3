"""Profiles against pandas, NumPy and scipy; kept once; one sentence for what is no table."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from tidemill.core.codec import canonical, decode
from tidemill.core.errors import Invalid
from tidemill.datasets import measures
from tidemill.datasets.measures import BINS, SHARES, ColumnProfile, Comoments, Measures, measure_files
from tidemill.datasets.profile import describe
from tidemill.datasets.tables import columns_of
from tidemill.datasets.versions import DatasetNotFound, add, append
from tidemill.govern.workspace import Workspace


def measured(folder: Path, *tables: pa.Table) -> Measures:
    files = [folder / f"{number}.parquet" for number in range(len(tables))]
    for table, file in zip(tables, files, strict=True):
        pq.write_table(table, file)
    found = measure_files(files, columns_of(tables[-1].schema), folder=folder)
    assert decode(canonical(found), Measures) == found
    return found


def column(found: Measures, name: str) -> ColumnProfile:
    return next(each for each in found.columns if each.name == name)


WIDE = st.floats(-1e12, 1e12, allow_subnormal=False).map(lambda x: round(x, 3))
FLOATS = st.lists(st.none() | WIDE | st.sampled_from([float("nan"), float("inf"), float("-inf"), 0.0, 1.0]), max_size=30)


@settings(max_examples=25, deadline=None)
@given(values=FLOATS, seed=st.integers(0, 9))
def test_numbers_are_measured_as_numpy_and_pandas_do(
    values: list[float | None], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = np.random.default_rng(seed).normal(size=len(values))
    table = pa.table({"x": pa.array(values, pa.float64()), "y": pa.array(other, pa.float64())})
    whole = measured(tmp_path_factory.mktemp("p"), table)
    found = column(whole, "x")
    present = np.array([value for value in values if value is not None], dtype=np.float64)
    finite = present[np.isfinite(present)]
    assert (whole.rows, found.missing) == (len(values), len(values) - len(present))
    assert found.distinct == pd.Series(present).nunique(dropna=False)
    assert (found.distinct_exact, found.quantiles_exact) == (True, True)
    numbers = found.numbers
    assert numbers is not None
    told = (numbers.zeros, numbers.negative, numbers.infinite, numbers.nan)
    assert told == ((present == 0).sum(), (present < 0).sum(), np.isinf(present).sum(), np.isnan(present).sum())
    if not finite.size:
        assert (found.least, numbers.mean, found.histogram, found.quantiles) == (None, None, None, {})
        return
    assert (found.least, found.greatest) == (finite.min(), finite.max())
    scale = max(1.0, float(np.abs(finite).max()))
    assert numbers.mean == pytest.approx(finite.mean(), rel=1e-9, abs=1e-12 * scale)
    if finite.size > 1:
        assert numbers.std == pytest.approx(finite.std(ddof=1), rel=1e-9, abs=1e-12 * scale)
    assert list(found.quantiles.values()) == pytest.approx(np.quantile(finite, SHARES), rel=1e-9, abs=1e-12 * scale)
    assert found.histogram is not None
    assert sum(found.histogram.counts) == finite.size
    if np.ptp(finite) > 1e-3:
        assert found.histogram.counts == tuple(np.histogram(finite, BINS)[0])
    both = np.array([value is not None and np.isfinite(value) for value in values])
    if len(set(finite)) > 1:
        pair = whole.correlations[0]
        assert pair.r == pytest.approx(pearsonr(finite, other[both])[0], rel=1e-6, abs=1e-6)
        assert pair.rows == finite.size


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_comoments_are_those_of_all_rows_however_they_come(size: int) -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal([1e6, 0, -5, 3], [1, 1e-3, 10, 0], (1000, 4))
    rows[:, 1] += (rows[:, 0] - 1e6) * 1e-3
    rows[rng.random(rows.shape) < 0.2] = np.nan
    rows[:300, 2] = np.nan
    together = Comoments(4)
    for start in range(0, 1000, size):
        together.add(rows[start : start + size])
    frame = pd.DataFrame(rows)
    assert together.means() == pytest.approx(frame.mean().to_numpy(), rel=1e-12)
    assert together.stds()[:3] == pytest.approx(frame.std().to_numpy()[:3], rel=1e-8)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        both = np.isfinite(rows[:, i]) & np.isfinite(rows[:, j])
        assert together.correlations()[i, j] == pytest.approx(pearsonr(rows[both, i], rows[both, j])[0], abs=1e-8)
        assert together.rows[i, j] == both.sum()
    assert np.isnan(together.correlations()[3]).all()  # a constant goes with nothing


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(st.none() | st.sampled_from(["", "a", "b", "ü", "日本"]), min_size=1, max_size=30))
def test_texts_are_counted_and_their_lengths_told(texts: list[str | None], tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = measured(tmp_path_factory.mktemp("p"), pa.table({"t": pa.array(texts, pa.string())}))
    found, present = whole.columns[0], [text for text in texts if text is not None]
    assert {each.value: each.count for each in found.top} == Counter(present)
    assert [each.count for each in found.top] == sorted(Counter(present).values(), reverse=True)
    assert (found.least, found.greatest) == (min(present, default=None), max(present, default=None))
    assert found.constant == (not present or (len(present) == len(texts) and len(set(present)) == 1))
    assert whole.duplicate_rows == len(texts) - len(set(texts))
    if present:
        lengths = [len(text) for text in present]
        assert found.lengths is not None
        assert (found.lengths.least, found.lengths.greatest) == (min(lengths), max(lengths))
        assert found.lengths.mean == pytest.approx(np.mean(lengths))


def test_every_type_is_told_for_what_it_is(tmp_path: Path) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    whole: dict[str, Any] = {
        "flag": [True, False, None, True],
        "zoned": pa.array([start, None, start + timedelta(days=2), start + timedelta(days=1)], pa.timestamp("ns", "Europe/Berlin")),
        "plain": pa.array([start.replace(tzinfo=None)] * 4, pa.timestamp("ms")),
        "day": pa.array([start.date()] * 4),
        "money": pa.array([Decimal("1.10"), Decimal("-2.20"), None, Decimal("0.00")], pa.decimal128(10, 2)),
        "large": pa.array([2**63 - 1, -(2**63), 0, 1], pa.int64()),
        "small": pa.array([1, 2, 3, 4], pa.uint8()),
        "kind": pa.array(["a", "b", "a", None]).dictionary_encode(),
        "nothing": pa.nulls(4),
        "none": pa.nulls(4, pa.float32()),
        "list": pa.array([[1], [1], [2], None]),
        "blob": pa.array([b"a", b"\xff", b"", None]),
        "huge": [1e308, -1e308, 1e308, 0.0],
        "A": [1, 1, 1, 1],
        "a": [2.0, 3.0, 2.0, 3.0],
    }
    found = measured(tmp_path, pa.table(whole))
    kinds = {each.name: each.kind for each in found.columns}
    assert (kinds["flag"], kinds["money"], kinds["list"], kinds["blob"], kinds["kind"]) == ("flag", "number", "other", "other", "text")
    assert [(each.value, each.count) for each in column(found, "flag").top] == [(True, 2), (False, 1)]
    assert column(found, "zoned").least == "2026-01-01T00:00:00+00:00"
    assert column(found, "zoned").quantiles["0.5"] == "2026-01-02T00:00:00+00:00"
    histogram = column(found, "zoned").histogram
    assert histogram is not None
    assert (histogram.counts[0], histogram.counts[BINS // 2], histogram.counts[-1]) == (1, 1, 1)
    assert (column(found, "plain").least, column(found, "day").greatest) == ("2026-01-01T00:00:00", "2026-01-01T00:00:00")
    assert (column(found, "money").least, column(found, "money").missing) == (-2.2, 1)
    assert (column(found, "large").least, column(found, "large").greatest) == (-(2**63), 2**63 - 1)
    assert (column(found, "list").distinct, column(found, "blob").distinct) == (2, 3)
    huge = column(found, "huge")
    assert huge.histogram is None  # its width is no number
    assert huge.numbers is not None
    assert huge.numbers.std is None
    assert {each.name for each in found.columns if each.constant} == {"plain", "day", "nothing", "none", "A"}
    assert (column(found, "A").greatest, column(found, "a").greatest) == (1, 3)


def test_an_empty_table_has_measures_of_nothing(tmp_path: Path) -> None:
    found = measured(tmp_path, pa.table({"x": pa.array([], pa.float64()), "t": pa.array([], pa.string())}))
    assert (found.rows, found.duplicate_rows, found.correlations) == (0, 0, ())
    assert not [each for each in found.columns if each.constant or each.top or each.missing or each.distinct]


def test_numbers_of_files_that_differ_in_type_are_one_column(tmp_path: Path) -> None:
    found = measured(tmp_path, pa.table({"x": [1, 2]}), pa.table({"x": [2.5, 2.0]}))
    assert (found.rows, found.columns[0].greatest, found.columns[0].distinct) == (4, 2.5, 3)


@pytest.mark.slow
def test_more_columns_than_are_correlated_are_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    found = measured(tmp_path, pa.table({f"x{number}": rng.normal(size=20) for number in range(120)}))
    assert (len(found.columns), found.correlated, len(found.correlations)) == (120, 100, 20)


def test_a_large_table_is_estimated_near_the_truth_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, bound in (("SMALL_CELLS", 0), ("FEW_VALUES", 1000), ("HASHES", 2000)):  # a table of few megabytes as one of many
        monkeypatch.setattr(measures, name, bound)
    rng = np.random.default_rng(2)
    number = rng.normal(size=60_000)
    few = np.where(rng.random(60_000) < 0.3, 7, rng.integers(0, 10**9, 60_000))
    found = measured(tmp_path, pa.table({"n": np.repeat(number[:30_000], 2), "few": np.repeat(few[:30_000], 2), "five": few % 5}))
    n, common = column(found, "n"), column(found, "few")
    assert (n.distinct_exact, n.quantiles_exact, found.duplicates_exact) == (False, False, False)
    assert n.distinct == pytest.approx(30_000, rel=0.1)
    assert list(n.quantiles.values()) == pytest.approx(np.quantile(number[:30_000], SHARES), abs=0.05)
    assert (common.top[0].value, common.top[0].count) == (7, 2 * int((few[:30_000] == 7).sum()))
    assert column(found, "five").distinct_exact
    assert found.duplicate_rows == pytest.approx(
        pd.DataFrame({"n": np.repeat(number[:30_000], 2), "f": few % 5}).duplicated().sum(), rel=0.2
    )


def test_a_version_is_measured_once_and_again_when_asked(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    add(ws, "other", pa.table({"z": [1.0, 2.0], "a": ["p", "q"]}))
    assert [(each.name, each.kind) for each in describe(ws, "other").measures.columns] == [("z", "number"), ("a", "text")]
    add(ws, "flights", pa.table({"x": [1.0, 2.0]}))
    first = describe(ws, "flights")
    assert (first.version, first.measures.rows) == (1, 2)
    asked: list[int] = []

    def measuring(*_: object, **__: object) -> Measures:
        asked.append(1)
        return first.measures

    monkeypatch.setattr("tidemill.datasets.profile.measure_files", measuring)
    assert describe(ws, "flights") == first
    assert asked == []
    assert describe(ws, "flights", fresh=True) == first
    append(ws, "flights", pa.table({"x": [3.0]}))
    assert describe(ws, "flights").version == 2
    assert asked == [1, 1]


def test_what_is_no_table_is_told(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    add(ws, "texts", tmp_path / "a.txt")
    with pytest.raises(Invalid, match="is no table"):
        describe(ws, "texts")
    with pytest.raises(DatasetNotFound, match="there is no dataset 'nothing'"):
        describe(ws, "nothing")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(Invalid, match=r"broken\.parquet could not be read as parquet"):
        measure_files([tmp_path / "broken.parquet"], {"x": "double"}, folder=tmp_path)
