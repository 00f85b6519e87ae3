"""Histories for those who draw or read them."""

import math
import struct

import numpy as np
import pytest

from tidemill.core.errors import Invalid
from tidemill.govern.workspace import Workspace
from tidemill.tracking.batches import Series, log_series
from tidemill.tracking.charts import BLOCK_POINTS, history_blocks, sample_history
from tidemill.tracking.runs import RunNotFound, start_run


def logged(ws: Workspace, values: np.ndarray, key: str = "loss") -> str:
    run = start_run(ws, "delay", name="r").id
    steps = np.arange(len(values), dtype="<i8")
    series = Series(key=key, values=values.astype("<f8").tobytes(), steps=steps.tobytes(), times=(steps + 1).tobytes())
    log_series(ws, run, [series], writer="w", number=1)
    return run


def test_blocks_hold_everything_exactly(any_ws: Workspace) -> None:
    values = np.random.default_rng(0).normal(size=BLOCK_POINTS + 10)
    values[:3] = [math.nan, math.inf, -math.inf]
    run = logged(any_ws, values)
    blocks = list(history_blocks(any_ws, run, "loss"))
    assert [struct.unpack_from("<I", block)[0] for block in blocks] == [BLOCK_POINTS, 10]
    found = np.concatenate([np.frombuffer(block, "<f8", struct.unpack_from("<I", block)[0], 4) for block in blocks])
    assert np.array_equal(found, values, equal_nan=True)
    count = 10
    assert np.frombuffer(blocks[1], "<i8", count, 4 + 8 * count).tolist() == list(range(BLOCK_POINTS, BLOCK_POINTS + 10))
    assert np.frombuffer(blocks[1], "<i8", count, 4 + 16 * count).tolist() == list(range(BLOCK_POINTS + 1, BLOCK_POINTS + 11))
    assert list(history_blocks(any_ws, run, "nothing")) == []


def test_a_chart_has_few_points_and_the_extremes(ws: Workspace) -> None:
    values = np.sin(np.arange(100_000) / 1000)
    values[54_321] = 9.0
    values[3] = math.nan
    one, two = logged(ws, values), logged(ws, np.array([1.0, 2.0]))
    first, second = sample_history(ws, [one, two, one], "loss", points=200)
    assert (first.run, first.logged, second.logged) == (one, 100_000, 2)
    assert len(first.values) <= 200
    assert max(value for value in first.values if value is not None) == 9.0
    assert list(first.steps) == sorted(first.steps)
    assert (second.values, second.steps) == ((1.0, 2.0), (0, 1))
    assert sample_history(ws, [one], "nothing")[0].logged == 0


def test_what_cannot_be_drawn_is_told_so(ws: Workspace) -> None:
    run = logged(ws, np.array([1.0]))
    for runs, points in (([], 10), ([run], 1), ([run], 100_000)):
        with pytest.raises(Invalid, match="is not drawn; expected 1 to 1000 runs, 2 to 50000 points"):
            sample_history(ws, runs, "loss", points=points)
    with pytest.raises(RunNotFound, match="there is no run 'nope'"):
        sample_history(ws, ["nope"], "loss")
    with pytest.raises(RunNotFound, match="there is no run 'nope'"):
        history_blocks(ws, "nope", "loss")
