"""Traffic by slots: every answer in one slot, whatever the span."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world import START
from tidemill.core.window import Window
from tidemill.server.web.traffic import SLOTS, slot_width, slots, summarise
from tidemill.serving.tables import PREDICTIONS


def table(rows: int, *, over: timedelta, shadow_every: int = 0) -> pa.Table:
    rng = np.random.default_rng(1)
    columns = {
        "id": [f"p{n}" for n in range(rows)],
        "at": [START + over * float(share) for share in np.sort(rng.random(rows))],
        "score": rng.random(rows).tolist(),
        "variant": rng.choice(["v1", "v2"], rows).tolist(),
        "model": ["m"] * rows,
        "version": [1] * rows,
        "shadow": [bool(shadow_every) and n % shadow_every == 0 for n in range(rows)],
        "latency_ms": rng.random(rows).tolist(),
        "trace_id": [""] * rows,
        "received_at": [START] * rows,
        "key": [None] * rows,
        "inputs_kept": [True] * rows,
    }
    return pa.table(columns, schema=PREDICTIONS)


@given(st.integers(1, 400), st.integers(0, 5))
def test_every_answer_counts_once(hours: int, shadow_every: int) -> None:
    over = timedelta(hours=hours)
    traffic = summarise(table(200, over=over, shadow_every=shadow_every), Window(start=START, end=START + over))
    counted = sum(value for series in traffic.charts[0].series for value in series.values if value is not None)
    assert counted == traffic.answers == 200 - traffic.shadow
    assert sum(traffic.by_variant.values()) == traffic.answers


def test_an_hour_without_answers_is_a_gap_not_a_zero() -> None:
    window = Window(start=START, end=START + timedelta(days=1))
    traffic = summarise(table(3, over=timedelta(minutes=10)), window)
    latency = traffic.charts[1].series[0].values
    assert latency[0] is not None
    assert latency[-1] is None
    assert traffic.charts[0].series[0].values[-1] == 0


def test_no_answers_are_told_as_such() -> None:
    traffic = summarise(PREDICTIONS.empty_table(), Window(start=START, end=START + timedelta(days=1)))
    assert traffic.answers == 0
    assert all(chart.empty for chart in traffic.charts)
    assert traffic.p50_ms != traffic.p50_ms


@pytest.mark.parametrize("days", [0.01, 1, 7, 30, 91, 365, 5000])
def test_slots_are_round_few_and_cover_the_window(days: float) -> None:
    window = Window(start=START + timedelta(seconds=17), end=START + timedelta(days=days, seconds=17))
    width = slot_width(window.length)
    starts = slots(window, width)
    assert len(starts) <= SLOTS + 1
    assert starts[0] <= window.start
    assert starts[-1] + width >= window.end
