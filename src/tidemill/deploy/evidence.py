"""What was seen of a rollout: predictions of both variants from the journal, joined with the labels that have come."""

import duckdb
import numpy as np

from tidemill.core.window import Window
from tidemill.deploy.judge import Comparison, compare
from tidemill.deploy.rollouts import Rollout
from tidemill.govern.workspace import Workspace
from tidemill.serving.config import endpoint_key
from tidemill.serving.history import read_labels, read_predictions

_PAIRS = """
SELECT l.value::DOUBLE AS label, a.score AS champion, b.score AS challenger
FROM predictions a JOIN predictions b USING (id) JOIN labels l USING (id)
WHERE a.variant = $champion AND b.variant = $challenger
ORDER BY l.at, id
"""
_TOUCHED = """
SELECT count(*), count(*) FILTER (score IS NULL OR isnan(score)) FROM predictions WHERE variant = $challenger AND NOT shadow
"""


def look(ws: Workspace, rollout: Rollout) -> Comparison:
    """Compare challenger and champion on all labelled requests since the rollout began."""
    ws.require("deploy.read", rollout.endpoint)
    window = Window(start=rollout.started_at, end=ws.clock.now())
    predictions = read_predictions(ws.state, endpoint_key(ws.project, rollout.endpoint), window, with_inputs=False)
    labels = read_labels(ws.state, window)
    names = {"champion": rollout.champion.name, "challenger": rollout.challenger.name}
    with duckdb.connect() as connection:
        connection.register("predictions", predictions)
        connection.register("labels", labels)
        pairs = connection.execute(_PAIRS, names).fetchnumpy()
        touched, failed = connection.execute(_TOUCHED, {"challenger": names["challenger"]}).fetchone() or (0, 0)
    columns = (np.asarray(pairs[name], dtype=np.float64) for name in ("label", "champion", "challenger"))
    return compare(*columns, plan=rollout.plan, touched=touched, failed=failed)
