"""Files of a table that grows: few, in their order, and no row written often."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.ids import Digest
from tidemill.datasets.parts import FAN, SIZES, gathered, plan_gather
from tidemill.datasets.versions import append, open_table, paths
from tidemill.govern.workspace import Workspace


@given(st.lists(st.integers(1, 40_000_000), max_size=400))
def test_files_stay_few_and_bytes_are_written_a_few_times(added: list[int]) -> None:
    sizes: list[int] = []
    written = 0
    for size in added:
        sizes.append(size)
        written += size
        while count := plan_gather(sizes):
            sizes[-count:] = [sum(sizes[-count:])]
            written += sizes[-1]
    assert sum(sizes) == sum(added)
    assert sum(size < SIZES[-1] for size in sizes) <= 2 * (FAN - 1) * len(SIZES) + sum(size >= SIZES[-1] for size in added) * FAN
    assert written <= sum(added) * 2 * len(SIZES)


def test_a_hundred_appends_are_few_files_with_all_rows_in_order(ws: Workspace) -> None:
    for number in range(100):
        append(ws, "events", pa.table({"id": [2 * number, 2 * number + 1]}))
    assert open_table(ws, "events")["id"].to_pylist() == list(range(200))
    assert open_table(ws, "events@50")["id"].to_pylist() == list(range(100))
    assert len(paths(ws, "events")) < 2 * FAN


def test_files_of_other_types_are_left_as_they_are(ws: Workspace, tmp_path: Path) -> None:
    parts: list[Digest] = []
    for number in range(FAN):
        kind = pa.int32() if number == 3 else pa.int64()
        pq.write_table(pa.table({"id": pa.array([number], kind)}), tmp_path / "part.parquet")
        parts.append(ws.objects.put_file(tmp_path / "part.parquet"))
    assert gathered(ws.objects, parts, folder=ws.state) == parts
