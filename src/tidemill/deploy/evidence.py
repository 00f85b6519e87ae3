"""What was seen of a rollout: scores of both variants from the journal, joined with the labels that have come."""

from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.window import Window
from tidemill.deploy.judge import Comparison, compare
from tidemill.deploy.rollouts import Rollout
from tidemill.govern.workspace import Workspace
from tidemill.serving.config import endpoint_key
from tidemill.serving.history import count_failures, read_labels, read_predictions
from tidemill.stats.arrays import FloatArray

_INSTANT = timedelta(microseconds=1)


def look(ws: Workspace, rollout: Rollout) -> Comparison:
    """Compare challenger and champion on all requests since the rollout began that both have scored and whose label has come."""
    ws.require("deploy.read", rollout.endpoint)
    now, key = ws.clock.now(), endpoint_key(ws.project, rollout.endpoint)
    window = Window(start=rollout.started_at, end=max(now, rollout.started_at + _INSTANT))
    predictions = read_predictions(ws.state, key, window, with_inputs=False, objects=ws.objects)
    labels = read_labels(ws.state, window, objects=ws.objects)  # in the order in which they came: that of the confidence sequence
    champion = _scores(predictions, rollout.champion.name, labels)
    challenger = _scores(predictions, rollout.challenger.name, labels)
    truths = _doubles(labels["value"])
    both = ~(np.isnan(champion) | np.isnan(challenger) | np.isnan(truths))
    scored = predictions.filter(pc.equal(predictions["variant"], pa.scalar(rollout.challenger.name)))
    return compare(
        truths[both],
        champion[both],
        challenger[both],
        plan=rollout.plan,
        touched=scored.filter(pc.invert(scored["shadow"])).num_rows,
        scored=scored.num_rows,
        failed=count_failures(ws.state, key, rollout.challenger.name, window),
    )


def _scores(predictions: pa.Table, variant: str, labels: pa.Table) -> FloatArray:
    """Return a variant's score for each label's prediction, NaN where it has none."""
    own = predictions.filter(pc.equal(predictions["variant"], pa.scalar(variant)))
    places = pc.index_in(labels["id"], own["id"].combine_chunks())
    return _doubles(own["score"].take(places))


def _doubles(column: Any) -> FloatArray:
    return np.asarray(column.fill_null(float("nan")), dtype=np.float64)
