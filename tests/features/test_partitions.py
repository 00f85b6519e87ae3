"""A join that is cut into parts gives what the join in one piece gives, wherever the parts run."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.features import worlds
from tests.features.worlds import MINUTE
from tidemill.compute.executor import Executor, open_executor
from tidemill.compute.inline import InlineExecutor
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.features.partitions import Streamed, count_parts, join_in_parts, stream_files, stream_table
from tidemill.features.timeline import join
from tidemill.features.views import FeatureView

questions = st.lists(st.tuples(worlds.origins, worlds.gates, st.integers(-2, 60)), max_size=25)


def views_of(*, keys: bool, written: bool) -> list[FeatureView]:
    """Views of two entities, by one and by two keys."""
    window = worlds.window_view(keys=keys, written=written, entity=("origin", "gate"))
    return [window, worlds.latest_view(keys=keys, ttl=9 * MINUTE, written=written)]


def in_parts(
    rows: pa.Table, views: list[FeatureView], events: pa.Table, *, memory_bytes: int, executor: Executor, wanted: list[str]
) -> pa.Table:  # fmt: skip
    with TemporaryDirectory() as folder:
        batches = join_in_parts(
            stream_table(rows), views, {"flights": stream_table(events)}, timestamp="at", wanted=wanted, memory_bytes=memory_bytes,
            folder=Path(folder), executor=executor,
        )  # fmt: skip
        return pa.Table.from_batches(batches)


def names_of(views: list[FeatureView]) -> list[str]:
    return [feature.name for view in views for feature in view.features]


def same_bits(one: pa.Table, other: pa.Table) -> bool:
    assert one.schema == other.schema
    return all(repr(one[name].to_pylist()) == repr(other[name].to_pylist()) for name in one.column_names)


@pytest.mark.slow
@settings(max_examples=30)  # each writes and reads some fifty files
@given(st.data(), questions, st.booleans(), st.booleans(), st.integers(1500, 9000))
def test_parts_change_nothing(data: st.DataObject, asked: list[Any], keys: bool, written: bool, budget: int) -> None:
    rows, events = worlds.entity_table(asked), worlds.events_table(data.draw(worlds.event_rows(keys=keys)))
    views = views_of(keys=keys, written=written)
    wanted = data.draw(st.lists(st.sampled_from(names_of(views)), min_size=1, unique=True))
    whole = join(rows, views, {"flights": events}, timestamp="at", wanted=wanted)
    assert same_bits(whole, in_parts(rows, views, events, memory_bytes=budget, executor=InlineExecutor(), wanted=wanted))


def many(count: int) -> tuple[pa.Table, pa.Table]:
    """Return many rows and events of many entities."""
    random = np.random.default_rng(3)
    origins = np.array([f"A{number:04}" for number in range(count // 7)])

    def moments() -> Any:
        return pa.array(1_370_000_000_000_000 + random.integers(0, 86_400_000_000, count), pa.timestamp("us", tz="UTC"))

    def keys() -> Any:
        return pa.array(origins[random.integers(0, origins.size, count)], mask=random.random(count) < 0.01)

    rows = pa.table({"origin": keys(), "gate": random.integers(0, 3, count), "at": moments(), "row": np.arange(count)})
    events = {
        "origin": keys(), "gate": random.integers(0, 3, count), "landed_at": moments(), "written_at": moments(),
        "flight": pa.array(np.arange(count) % (count // 2)).cast(pa.string()), "delay": random.normal(size=count),
        "late": random.random(count) < 0.5, "plane": pa.array(np.array(["A320", "B737"])[random.integers(0, 2, count)]).dictionary_encode(),
    }  # fmt: skip
    return rows, pa.table(events)


@pytest.fixture(params=["inline", "local:2", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "ray":
        pytest.importorskip("ray", reason="ray is not installed")
    with closing(open_executor(request.param)) as opened:
        yield opened


@pytest.mark.slow
def test_every_executor_gives_the_same_rows_from_files(tmp_path: Path, executor: Executor) -> None:
    rows, events = many(15_000)
    rows = pa.concat_tables([rows.slice(0, 4000), rows.slice(4000)])  # several batches
    for number in range(2):
        half = len(events) // 2
        pq.write_table(events.slice(number * half, half), tmp_path / f"{number}.parquet", row_group_size=2000)
    views = views_of(keys=True, written=True)
    whole = join(rows, views, {"flights": events}, timestamp="at")
    sources = {"flights": stream_files([tmp_path / "0.parquet", tmp_path / "1.parquet"])}
    budget, folder = 1 << 20, tmp_path / "parts"
    assert count_parts(stream_table(rows), views, sources, memory_bytes=budget, workers=executor.workers) > 3
    folder.mkdir()
    found = pa.Table.from_batches(
        join_in_parts(
            stream_table(rows),
            views,
            sources,
            timestamp="at",
            wanted=names_of(views),
            memory_bytes=budget,
            folder=folder,
            executor=executor,
        )
    )
    assert found.equals(whole) or same_bits(found, whole)
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_what_does_not_fit_is_told_before_anything_is_cut(tmp_path: Path) -> None:
    rows, events = many(100)
    view = worlds.latest_view(keys=True, ttl=None)

    def read(_: list[str]) -> Iterator[pa.RecordBatch]:
        raise AssertionError("nothing is to be read")

    unread = Streamed(events.schema, 10**6, read)
    for views, message in (
        ([replace(view, entity=("tower",))], "no join key 'tower'"),
        ([replace(view, event_timestamp="when")], "no column when"),
        ([view, replace(view, name="again")], "rename one of them"),
    ):
        with pytest.raises(Invalid, match=message):
            list(
                join_in_parts(
                    stream_table(rows), views, {"flights": unread}, timestamp="at", wanted=names_of(views), memory_bytes=1 << 20,
                    folder=tmp_path, executor=InlineExecutor(),
                )
            )  # fmt: skip
    with pytest.raises(Invalid, match=r"too large for 0 MB; give it at least 1 MB"):
        count_parts(stream_table(rows), [view], {"flights": unread}, memory_bytes=1000, workers=1)
