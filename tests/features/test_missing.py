"""Defaults and refusals for features without a value: the same in history, batch joins, look-ups and endpoints."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.features import worlds
from tests.features.worlds import MINUTE, START
from tidemill.core.clock import ManualClock
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.datasets.versions import add
from tidemill.features.applied import apply, plan
from tidemill.features.definitions import compile_plan
from tidemill.features.history import history, history_to
from tidemill.features.lookup import features_get
from tidemill.features.materialize import materialize
from tidemill.features.missing import FeaturesMissing, filled, gone, refuse_missing
from tidemill.features.views import Aggregation, Feature, FeatureService
from tidemill.govern.workspace import Workspace

LAST = replace(
    worlds.latest_view(keys=True, ttl=None),
    features=(Feature(name="last_delay", column="delay", default=-1), Feature(name="plane", kind="string", default="unknown")),
)
MEAN = Feature(name="mean_delay", aggregation=Aggregation(function="mean", column="delay", window=3 * MINUTE), default=0.5)
DELAYS = replace(worlds.window_view(keys=True), features=(MEAN,))
SERVICE = FeatureService(name="delay", features=("last:*", "delays:*"), computed={"twice": "2 * last_delay"})
STRICT = replace(SERVICE, name="strict", missing="fail")
NAMES = ["last_delay", "plane", "mean_delay", "twice"]


@pytest.mark.slow
def test_a_default_stands_for_what_is_missing_wherever_one_asks(ws: Workspace, tmp_path: Path) -> None:
    add(ws, "flights", worlds.events_table([worlds.event("F1", delay=7.5), {**worlds.event("F2", delay=np.nan), "origin": "LGA"}]))
    apply(ws, [LAST, DELAYS], [SERVICE, STRICT])
    asking = worlds.entity_table([("EWR", 1, 2), ("JFK", 1, 2), ("LGA", 1, 2), (None, 1, 2)])
    found = history(ws, asking, "delay", timestamp="at").select(NAMES).to_pylist()
    nothing = {"last_delay": -1.0, "plane": "unknown", "mean_delay": 0.5, "twice": -2.0}
    assert found == [dict(zip(NAMES, (7.5, "A320", 7.5, 15.0), strict=True)), nothing, {**nothing, "plane": "A320"}, nothing]
    history_to(ws, asking, "strict", tmp_path / "made.parquet", timestamp="at")  # training gets all rows
    assert pq.read_table(tmp_path / "made.parquet", columns=NAMES).to_pylist() == found

    ws.clock = ManualClock(START + 2 * MINUTE)
    for view in ("last", "delays"):
        materialize(ws, view)
    rows: list[dict[str, Any]] = [{"origin": origin} for origin in ("EWR", "JFK", "LGA", None)]
    told = features_get(ws, rows, "delay").rows
    assert [row.features for row in told] == found
    assert [row.missing for row in told] == [(), ("last_delay", "plane", "mean_delay"), ("last_delay", "mean_delay"), *[told[1].missing]]
    with pytest.raises(FeaturesMissing, match="row 2 has no last_delay, plane, mean_delay; push"):
        features_get(ws, rows, "strict")
    assert features_get(ws, rows, "strict", missing="none").rows == told
    with pytest.raises(FeaturesMissing, match="row 1 has no last_delay, mean_delay"):
        compile_plan(ws, "strict").read(ws.online, {"origin": ["LGA"]}, ws.clock.now())
    read = compile_plan(ws, "strict").read(ws.online, {"origin": ["EWR"]}, ws.clock.now())
    assert {name: column[0] for name, column in read.items()} == found[0]
    assert plan(ws, [replace(LAST, features=(replace(LAST.features[0], default=0), LAST.features[1]))]).changes[0].what == (
        "features: last_delay",
    )


def test_missing_is_nan_among_numbers_and_none_among_text() -> None:
    numbers, texts = np.array([1.0, np.nan]), np.array(["a", None], dtype=object)
    assert (gone(numbers).tolist(), gone(texts).tolist()) == ([False, True], [False, True])
    assert (filled(numbers, 2).tolist(), filled(texts, "b").tolist()) == ([1.0, 2.0], ["a", "b"])
    assert filled(numbers[:1], 2) is not None
    refuse_missing({"a": numbers[:1]}, ["a"])
    with pytest.raises(FeaturesMissing, match="row 2 has no a, b"):
        refuse_missing({"a": numbers, "b": texts}, ["a", "b"])


def test_a_default_fits_its_feature() -> None:
    with pytest.raises(Invalid, match="of kind double and has the default 'none'; expected one of that kind"):
        Feature(name="a", default="none")
    with pytest.raises(Invalid, match="of kind string and has the default 1"):
        Feature(name="a", kind="string", default=1)
    with pytest.raises(Invalid, match="is a count, which is never missing; leave its default out"):
        Feature(name="a", aggregation=Aggregation(function="count", window=timedelta(hours=1)), default=1)
