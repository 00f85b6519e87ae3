"""A few rows, read one by one in plain Python, get what many rows get of NumPy: bit for bit."""

import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.features import worlds
from tests.features.worlds import MINUTE, START
from tidemill.core.clock import micros
from tidemill.core.errors import Corrupt, Invalid
from tidemill.core.values import replace
from tidemill.features.online import FEW_ROWS, FeatureReader, ReadPlan, ViewPlan, push
from tidemill.features.views import AggregateFunction
from tidemill.features.windows import FEW, summarise, summarise_ends
from tidemill.store.online import OnlineStore
from tidemill.store.table import open_online

VALUES = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-50, 50).map(lambda x: x / 3), st.sampled_from([math.nan, -0.0, math.inf, -math.inf, 1e308])
)
VIEWS = [
    worlds.plan_of(view, namespace=f"features/default/{number}@1")
    for number, view in enumerate(
        [
            worlds.window_view(keys=True),
            worlds.window_view(keys=False, entity=("origin", "gate"), windows=(60, 7)),
            worlds.window_view(keys=True, written=True),
            worlds.latest_view(keys=True, ttl=None),
            worlds.latest_view(keys=False, ttl=5 * MINUTE, entity=("gate",)),
            worlds.latest_view(keys=True, ttl=20 * MINUTE, written=True),
        ]
    )
]


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnlineStore]:
    store = open_online("lmdb:online", base=Path(tmp_path_factory.mktemp("state")))
    yield store
    store.close()


def bits(values: np.ndarray[Any, Any]) -> list[Any]:
    return [None if value is None or value != value else value if isinstance(value, str) else float.hex(value) for value in values.tolist()]


@given(st.lists(VALUES, max_size=40), st.lists(st.integers(0, 40), min_size=1, max_size=4), st.floats(0, 1), st.data())
def test_spans_that_end_together_are_summarised_as_any(
    values: list[float], starts: list[int], quantile: float, data: st.DataObject
) -> None:
    function = data.draw(st.sampled_from(get_args(AggregateFunction)))
    starts = [min(start, len(values)) for start in starts]
    array, times, moment = np.array(values, dtype=np.float64), list(range(len(values))), 100
    told = {"times": np.array(times, dtype=np.int64), "moments": np.full(len(starts), moment)}
    quantiles = quantile if function == "quantile" else None
    with np.errstate(over="ignore"):
        expected = summarise(function, array, np.array(starts), np.full(len(starts), len(values)), quantile=quantiles, **told)
        for given_as in (array, values)[: 2 if len(values) <= FEW else 1]:
            found = summarise_ends(function, given_as, starts, quantile=quantiles, times=times, moment=moment)
            assert bits(np.array(found)) == bits(expected)


@pytest.mark.parametrize("count", [*range(12), *range(126, 140), 257, 1000, 9000])
def test_sums_are_added_in_one_order_however_long(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count) * 1e3
    starts = [0, count // 3, count]
    for given_as in (values, values.tolist())[: 2 if count <= FEW else 1]:
        found = summarise_ends("sum", given_as, starts, quantile=None, times=[], moment=0)
        assert bits(np.array(found)) == bits(summarise("sum", values, np.array(starts), np.full(3, count)))


@st.composite
def streams(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = draw(worlds.event_rows(keys=True, max_size=80))
    few = draw(st.booleans())  # of few entities, so that each has many events
    for row in rows:
        row["delay"] = draw(st.one_of(st.none(), VALUES)) if draw(st.booleans()) else row["delay"]
        row["origin"] = "EWR" if few and row["origin"] else row["origin"]
    return rows


@given(streams(), st.lists(st.sampled_from(VIEWS), min_size=1, unique_by=id), st.integers(-1, 62), st.integers(1, FEW_ROWS), st.data())
def test_few_rows_get_what_many_rows_get(
    online: OnlineStore, events: list[dict[str, Any]], views: list[ViewPlan], minute: int, count: int, data: st.DataObject
) -> None:
    wanted = [replace(plan, wanted=tuple(data.draw(st.lists(st.sampled_from(plan.wanted), min_size=1, unique=True)))) for plan in views]
    features = {name: None for plan in wanted for name in plan.wanted}
    plan = ReadPlan(project="default", services=("all@1",), views=tuple(wanted), features=tuple(features))
    for each in views:
        online.clear(each.namespace)
        push(online, each, {name: [row[name] for row in events] for name in worlds.EVENTS.names}, now=START)
    reader = FeatureReader(plan, online)
    moment = micros(START + minute * MINUTE) + data.draw(st.integers(-1, 1))
    keys = {"origin": [data.draw(worlds.origins) for _ in range(count)], "gate": [data.draw(worlds.gates) for _ in range(count)]}
    with np.errstate(over="ignore"):
        few, many = reader._read_few(keys, moment), reader._read_many(keys, moment)
    assert few is not None
    assert set(few) == set(many)
    assert {name: (few[name].dtype, bits(few[name])) for name in few} == {name: (many[name].dtype, bits(many[name])) for name in few}
    # … and so in an order of the service's own, and with names that stand in numpy's arrays.
    told = reader.read({name: np.array(column, dtype=object) for name, column in keys.items()}, START + timedelta(minutes=minute))
    assert list(told) == list(features)


def test_what_one_row_does_not_bring_is_told_as_of_many(online: OnlineStore) -> None:
    plan = ReadPlan(project="default", services=("all@1",), views=(VIEWS[1],), features=VIEWS[1].wanted)
    reader = FeatureReader(plan, online)
    for keys, message in [
        ({"origin": ["EWR"]}, "lack join key gate"),
        ({"origin": ["EWR"], "gate": ["one"]}, "expected a whole number"),
        ({"origin": ["EWR"], "gate": [2**63]}, "expected a whole number"),
        ({"origin": ["EWR"], "gate": [True]}, "expected a whole number"),
        ({"origin": [1], "gate": [1]}, "expected text"),
        ({"origin": ["EWR", "JFK"], "gate": [1]}, "differ in length"),
    ]:
        with pytest.raises(Invalid, match=message):
            reader.read(keys, START)


def test_damaged_bytes_are_noticed_of_one_row(online: OnlineStore) -> None:
    for plan in (VIEWS[0], VIEWS[2], VIEWS[3]):
        online.clear(plan.namespace)
        push(online, plan, {name: [worlds.event("F1", delay=1.0)[name]] for name in worlds.EVENTS.names}, now=START)
        ((key, blob),) = online.scan(plan.namespace)
        reader = FeatureReader(ReadPlan(project="default", services=("a@1",), views=(plan,), features=plan.wanted), online)
        for damaged in (blob[:-1] if plan.view.windowed else blob[:15], blob[:4] + b"\0" * 4 + blob[8:], b"\0" + blob[1:], b"\1"):
            online.put_many(plan.namespace, [(key, damaged)])
            with pytest.raises(Corrupt, match="fill it anew with"):
                reader.read({"origin": ["EWR"]}, START + MINUTE)
        online.clear(plan.namespace)
