"""Who uses features, and that what a model pins does not move when its definition does."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.deploy import worlds
from tests.features import worlds as features
from tests.serving.plant import Caller, Plant, example_onnx
from tidemill.core.clock import SimulatedClock
from tidemill.core.codec import canonical
from tidemill.core.signature import SPEC_FILE
from tidemill.core.values import replace
from tidemill.datasets.versions import add
from tidemill.deploy.endpoints import create_endpoint
from tidemill.deploy.feature_use import FeatureUse, feature_use
from tidemill.deploy.publish import publish
from tidemill.features.applied import apply, rollback
from tidemill.features.definitions import DefinitionNotFound
from tidemill.features.materialize import materialize
from tidemill.features.views import Aggregation, Feature, FeatureService, FeatureView
from tidemill.govern.workspace import Workspace
from tidemill.registry.versions import register
from tidemill.serving.runtimes.conformance import example_spec
from tidemill.store.trees import put_tree

pytestmark = pytest.mark.slow


def test_a_view_leads_to_services_models_and_endpoints(ws: Workspace) -> None:
    worlds.services(ws)
    apply(ws, [features.window_view(keys=True)])
    for service in ("delay@1", "delay@2"):
        worlds.model_on(ws, service)
    create_endpoint(ws, "delay", "delay@1")
    first = FeatureUse(view="last@1", service="delay@1", model="delay@1", endpoint="delay", role="answers", share=1.0)
    second = FeatureUse(view="last@2", service="delay@2", model="delay@2")
    assert feature_use(ws) == [FeatureUse(view="delays@1"), second, first]
    assert feature_use(ws, "last") == [second, first]
    assert feature_use(ws, "last@1") == [first]
    with pytest.raises(DefinitionNotFound, match=r"no feature view 'lost' \(there are: delays, last\)"):
        feature_use(ws, "lost")


LONG = FeatureView(
    name="gains", entity=("origin",), source="flights", event_timestamp="landed_at", event_key="flight", computed={"gain": "delay / 3"},
    features=(Feature(name="a", aggregation=Aggregation(function="mean", column="gain", window=timedelta(hours=2))),
              Feature(name="b", aggregation=Aggregation(function="count", window=timedelta(hours=2)))),
)  # fmt: skip


def scores(caller: Caller) -> list[float]:
    return [each["score"] for each in caller.predict({"origin": "EWR"}, {"origin": "JFK"})["predictions"]]


def served(ws: Workspace, folder: Path) -> Plant:
    """Put a model that looks up `delay@1` behind an endpoint; return its data plane, whose clock stands half an hour after the start."""
    spec = replace(example_spec("onnx", "model.onnx"), feature_service="delay@1", request_columns=())
    register(ws, "delay", put_tree(ws.objects, {"model.onnx": example_onnx(), SPEC_FILE: canonical(spec)}))
    create_endpoint(ws, "delay", "delay@1")
    SimulatedClock.create(folder / "clock", features.START + timedelta(minutes=30))
    return Plant(ws.home, clock=f"simulated:{folder}/clock")


def test_answers_of_a_pinned_model_do_not_move_when_the_definition_does(ws: Workspace, tmp_path: Path) -> None:
    events = [features.event(f"F{number}", delay=float(delay)) for number, delay in enumerate([7, -2, 11])]
    add(ws, "flights", features.events_table(events))
    service = FeatureService(name="delay", features=("gains:*",))
    apply(ws, [LONG], [service])
    materialize(ws, "gains", until=features.START + timedelta(minutes=2))
    plant = served(ws, tmp_path)
    generation = publish(ws)
    event = [features.event("F9", delay=5.0) | {"landed_at": "2013-06-01T00:02:00Z"}]
    with plant.worker() as caller:
        plant.wait(generation)
        before = scores(caller)
        changed = replace(LONG, computed={"gain": "delay * 100"})
        apply(ws, [changed], [service], reason="another thought")
        plant.wait(publish(ws))
        assert scores(caller) == before
        # Events go on to feed the version that the model pins, computed as it was then.
        stored = {"stored": 1, "skipped": 0}
        assert caller.post("/push/flights", {"rows": event}).json() == {"views": {"gains@1": stored, "gains@2": stored}}
        moved = scores(caller)
    mean = np.mean(np.array([7, -2, 11, 5]) / 3)
    assert before[0] == pytest.approx(0.1 * 16 / 9 + 0.03, abs=1e-6)
    assert moved == [pytest.approx(0.1 * mean + 0.04, abs=1e-6), before[1]]
    rolled = rollback(ws, "delay@1", reason="it was right")
    assert [(change.kind, change.action, change.version, change.what) for change in rolled.changes] == [
        ("view", "change", 3, ("computed: gain",)),
        ("service", "change", 3, ("view gains is now version 3",)),
    ]


def test_a_worker_computes_features_from_the_request(ws: Workspace, tmp_path: Path) -> None:
    add(ws, "flights", features.events_table([features.event("F1", delay=7.0)]))
    made = FeatureService(
        name="delay", features=("last:last_delay",), computed={"a": "more * last_delay", "b": "1"}, request={"more": "double"}
    )
    apply(ws, [features.latest_view(keys=True, ttl=None)], [made])
    materialize(ws, "last", until=features.START + timedelta(minutes=2))
    plant = served(ws, tmp_path)
    generation = publish(ws)
    with plant.worker() as caller:
        plant.wait(generation)
        rows = [{"origin": "EWR", "more": 0.5}, {"origin": "JFK", "more": 1.0}, {"origin": "EWR", "more": None}]
        answers = [each["score"] for each in caller.predict(*rows)["predictions"]]
        refused = caller.post("/predict/delay", {"rows": [{"origin": "EWR"}]})
        wrong = caller.post("/predict/delay", {"rows": [{"origin": "EWR", "more": "much"}]})
    assert answers == [pytest.approx(0.1 * 3.5 + 0.01, abs=1e-6), 0.5, 0.5]
    assert (refused.status, wrong.status) == (422, 422)
    assert "more" in refused.json()["detail"]
