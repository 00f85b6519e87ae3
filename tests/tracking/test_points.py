"""Metric histories: packed as given, read back in order, drawn with their peaks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.errors import Corrupt
from tidemill.govern.workspace import Workspace
from tidemill.tracking.batches import Metric, log_batch
from tidemill.tracking.points import BLOCKS, TAIL, Points, decode_block, encode_block, joined, sample
from tidemill.tracking.runs import end_run, metric_history, start_run

whole = st.integers(-(2**63), 2**63 - 1)


def points(values, steps=None, times=None):
    count = len(values)
    return Points(
        np.array(values, float),
        np.arange(count) if steps is None else np.array(steps, np.int64),
        np.arange(count) * 1000 if times is None else np.array(times, np.int64),
    )


@given(st.lists(st.tuples(st.floats(), whole, whole), min_size=1, max_size=300))
def test_a_block_gives_back_what_it_was_made_of(rows):
    given_points = points(*map(list, zip(*rows, strict=True)))
    back = decode_block(encode_block(given_points))
    for before, after in zip(given_points, back, strict=True):
        np.testing.assert_array_equal(before, after)


def test_an_unknown_block_is_told_so():
    with pytest.raises(Corrupt, match="unknown format 9"):
        decode_block(b"\x09" + encode_block(points([1.0]))[1:])


def test_a_million_points_cost_ten_bytes_each():
    rng = np.random.default_rng(7)
    times = 1_700_000_000_000_000 + np.cumsum(rng.integers(200, 40_000, 4096))
    assert len(encode_block(points(rng.normal(size=4096), times=times))) < 4096 * 11


def test_histories_are_packed_as_they_grow_and_stay_in_order(any_ws: Workspace):
    run = start_run(any_ws, "delay", name="r")
    expected = []
    for batch in range(12):
        rows = [Metric(key="a", value=float(batch * 1000 + i), step=i) for i in range(900)]
        log_batch(any_ws, run.id, metrics=[*rows, *(Metric(key=f"k{i}", value=1.0, step=batch) for i in range(20))])
        expected += [row.value for row in rows]
        assert metric_history(any_ws, run.id, "a").values.tolist() == expected
    end_run(any_ws, run.id)
    assert metric_history(any_ws, run.id, "a").values.tolist() == expected
    assert metric_history(any_ws, run.id, "k7").steps.tolist() == list(range(12))
    assert len(metric_history(any_ws, run.id, "none")) == 0
    with any_ws.catalog.reading() as tx:
        assert tx.execute(TAIL.select()).first() is None
        assert {row.points for row in tx.execute(BLOCKS.select().where(BLOCKS.c.key == "a"))} > {900 * 5}


def test_single_points_are_packed_too(ws: Workspace):
    run = start_run(ws, "delay", name="r")
    for step in range(600):
        log_batch(ws, run.id, metrics=[Metric(key="a", value=step / 7, step=step)])
    assert metric_history(ws, run.id, "a").values.tolist() == [step / 7 for step in range(600)]


@given(st.lists(st.floats(width=32), min_size=1, max_size=400), st.integers(4, 60))
def test_a_sample_holds_the_ends_and_the_extremes(values, count):
    drawn = sample(points(values), count)
    assert len(drawn) <= max(count, 4)
    assert (drawn.steps[0], drawn.steps[-1]) == (0, len(values) - 1)
    seen = [value for value in values if value == value]
    if seen:
        assert np.nanmax(drawn.values) == max(seen)
        assert np.nanmin(drawn.values) == min(seen)


def test_a_sample_is_in_the_order_of_steps():
    drawn = sample(points([3.0, 1.0, 2.0], steps=[30, 10, 20]), 100)
    assert (drawn.steps.tolist(), drawn.values.tolist()) == ([10, 20, 30], [1.0, 2.0, 3.0])


def test_nothing_joined_is_nothing():
    assert len(joined([])) == 0
