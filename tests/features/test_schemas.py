"""Views of random shape over random events give what brute force gives: offline, in parts, on Ray, and online as of a moment."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.features import worlds
from tests.features.worlds import MINUTE, START
from tidemill.compute.executor import Executor, open_executor
from tidemill.features.online import ReadPlan, push
from tidemill.features.partitions import join_in_parts, stream_table
from tidemill.features.timeline import join
from tidemill.features.views import Aggregation, Feature, FeatureView
from tidemill.store.online import OnlineStore
from tidemill.store.table import open_online

pytestmark = pytest.mark.slow

NUMERIC = ("delay", "late", "gate")
QUESTIONS = st.lists(st.tuples(worlds.origins, worlds.gates, st.integers(-2, 60)), min_size=1, max_size=12)
FUNCTIONS = ("count", "sum", "mean", "min", "max", "last", "distinct", "time_since", "quantile", "share")
THOROUGH = "thorough"


@st.composite
def aggregations(draw: st.DrawFn) -> Aggregation:
    function = draw(st.sampled_from(FUNCTIONS))
    column: str | None = draw(st.sampled_from(NUMERIC))
    if function == "share":
        column = "late"
    elif function == "distinct":
        column = draw(st.sampled_from([*NUMERIC, "plane", "flight"]))
    elif function in ("count", "time_since"):
        column = draw(st.sampled_from([None, *NUMERIC]))
    return Aggregation(
        function=function, column=column, window=draw(st.integers(1, 50)) * MINUTE, quantile=0.3 if function == "quantile" else None
    )


@st.composite
def views(draw: st.DrawFn) -> FeatureView:
    """A view of random features, by random join keys, with or without an event key, a created timestamp and a TTL."""
    windowed = draw(st.booleans())
    if windowed:
        asked = draw(st.lists(aggregations(), min_size=1, max_size=6))
        features = [Feature(name=f"w{number}", aggregation=each) for number, each in enumerate(asked)]
    else:
        columns = draw(st.lists(st.sampled_from([*NUMERIC, "plane", "flight"]), min_size=1, max_size=5))
        kinds = [("string" if column in ("plane", "flight") else "double") for column in columns]
        features = [
            Feature(name=f"l{number}", column=column, kind=kind) for number, (column, kind) in enumerate(zip(columns, kinds, strict=True))
        ]
    return FeatureView(
        name="windows" if windowed else "latest",
        entity=draw(st.sampled_from([("origin",), ("gate",), ("origin", "gate"), ("gate", "origin")])),
        source="flights",
        event_timestamp="landed_at",
        event_key=draw(st.sampled_from(["flight", None])),
        created_timestamp=draw(st.sampled_from(["written_at", None])),
        ttl=None if windowed else draw(st.sampled_from([None, 1 * MINUTE, 20 * MINUTE])),
        features=tuple(features),
    )


def answers(view: FeatureView, events: list[dict[str, Any]], rows: list[tuple[Any, Any, int]]) -> list[dict[str, Any]]:
    """What brute force says of rows."""
    names = ("origin", "gate")
    asked = [dict(zip(names, row, strict=False)) | {"at": START + row[2] * MINUTE} for row in rows]
    return [worlds.by_brute_force(view, events, tuple(row[name] for name in view.entity), row["at"]) for row in asked]


def agree(found: dict[str, list[Any]], expected: list[dict[str, Any]], places: list[int]) -> None:
    for name, values in found.items():
        for place, value in zip(places, values, strict=True):
            assert worlds.same(value, expected[place][name]), (name, place)


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnlineStore]:
    store = open_online("lmdb:online", base=Path(tmp_path_factory.mktemp("state")))
    yield store
    store.close()


@given(views(), worlds.event_rows(keys=True), QUESTIONS)
def test_offline(view: FeatureView, events: list[dict[str, Any]], rows: list[tuple[Any, Any, int]]) -> None:
    found = join(worlds.entity_table(rows), [view], {"flights": worlds.events_table(events)}, timestamp="at")
    agree({each.name: found[each.name].to_pylist() for each in view.features}, answers(view, events, rows), list(range(len(rows))))


@given(views(), worlds.event_rows(keys=True), QUESTIONS, st.integers(1, 9))
def test_online_as_of(
    online: OnlineStore, view: FeatureView, events: list[dict[str, Any]], rows: list[tuple[Any, Any, int]], batch: int
) -> None:
    plan = worlds.plan_of(view)
    written = view.created_timestamp is not None
    if view.event_key is not None:  # a correction that moves an event in time is out of reach online: the store says so
        moved: dict[tuple[Any, ...], Any] = {}
        for row in events:
            key = tuple(row[name] for name in view.entity), row["flight"]
            row["landed_at"] = moved.setdefault(key, row["landed_at"])
    events.sort(key=lambda row: (written and row["written_at"]) or row["landed_at"] or START)
    online.clear(plan.namespace)
    read = ReadPlan(project="default", services=("s@1",), views=(plan,), features=plan.wanted)
    last = START
    for first in range(0, len(events), batch):
        seen = events[: first + batch]
        last = max((moment for row in seen for moment in (row["landed_at"], written and row["written_at"]) if moment), default=START)
        push(online, plan, {name: [row[name] for row in events[first : first + batch]] for name in worlds.EVENTS.names}, now=last)
        expected = answers(view, seen, rows)
        for minute in {row[2] for row in rows}:
            places = [place for place, row in enumerate(rows) if row[2] == minute and START + minute * MINUTE >= last]
            if places:
                keys = {name: [rows[place][number] for place in places] for number, name in enumerate(("origin", "gate"))}
                found = read.read(online, keys, START + minute * MINUTE)
                agree({name: values.tolist() for name, values in found.items()}, expected, places)


@pytest.fixture(scope="module", params=["inline", "ray"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "ray":
        if request.config.getoption("--hypothesis-profile") != THOROUGH:
            pytest.skip("only with the thorough profile: it sends each part of each example to a process of Ray")
        pytest.importorskip("ray", reason="ray is not installed")
    with closing(open_executor(request.param)) as opened:
        yield opened


@settings(max_examples=settings.default.max_examples // 4)  # each writes and reads files
@given(views(), worlds.event_rows(keys=True), QUESTIONS, st.integers(1500, 9000))
def test_cut_into_parts(
    executor: Executor, view: FeatureView, events: list[dict[str, Any]], rows: list[tuple[Any, Any, int]], budget: int
) -> None:
    names = [feature.name for feature in view.features]
    with TemporaryDirectory() as folder:
        batches = join_in_parts(
            stream_table(worlds.entity_table(rows)), [view], {"flights": stream_table(worlds.events_table(events))}, timestamp="at",
            wanted=names, memory_bytes=budget, folder=Path(folder), executor=executor,
        )  # fmt: skip
        found = pa.Table.from_batches(batches)
    agree({name: found[name].to_pylist() for name in names}, answers(view, events, rows), list(range(len(rows))))
