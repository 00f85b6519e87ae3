"""Endpoints with a history: journals written as a worker writes them, models that need features, evidence that says what one likes."""

from datetime import datetime
from typing import Any

from tests import world
from tests.features import worlds as features
from tidemill.core.clock import micros
from tidemill.core.codec import canonical
from tidemill.core.signature import SPEC_FILE, Column, ModelSpec, Signature
from tidemill.datasets.versions import add
from tidemill.deploy.judge import Comparison
from tidemill.deploy.rollouts import Rollout
from tidemill.features.applied import apply
from tidemill.features.views import FeatureService
from tidemill.govern.workspace import Workspace
from tidemill.registry.versions import ModelVersion, register
from tidemill.serving.journal import (
    FailureRecord,
    JournalWriter,
    LabelRecord,
    PredictionRecord,
    failures_folder,
    labels_folder,
    predictions_folder,
)
from tidemill.store.trees import put_tree


class Ledger:
    """Writes an endpoint's journals, one request at a time."""

    def __init__(self, ws: Workspace, endpoint: str = "delay") -> None:
        self.ws, self.received = ws, 0
        self.predictions = JournalWriter(predictions_folder(ws.state, endpoint), "0")
        self.failures = JournalWriter(failures_folder(ws.state, endpoint), "0")
        self.labels = JournalWriter(labels_folder(ws.state), "0")

    def predict(
        self, scores: dict[str, float], *, variant: str = "v1", shadow: bool = False, at: datetime | None = None, **columns: Any
    ) -> None:
        """Write the answer (or what a shadow said) to rows by id."""
        self.received += 1
        moment = micros(at or self.ws.clock.now())
        record = PredictionRecord(
            at=moment, received=self.received, ids=list(scores), columns={name: [value] * len(scores) for name, value in columns.items()},
            scores=list(scores.values()), variant=[0] * len(scores), variants=[(variant, "delay", int(variant[1:]))], shadow=shadow,
            latency_ms=1.0, trace_id="",
        )  # fmt: skip
        self.predictions.append(record, at=moment)

    def label(self, values: dict[str, float | bool | str], *, at: datetime | None = None) -> None:
        """Write what came true."""
        self.received += 1
        moment = micros(at or self.ws.clock.now())
        self.labels.append(
            LabelRecord(received=self.received, ids=list(values), values=list(values.values()), at=[moment] * len(values)), at=moment
        )

    def fail(self, rows: int, *, variant: str) -> None:
        """Write rows on which a variant failed."""
        moment = micros(self.ws.clock.now())
        record = FailureRecord(at=moment, received=0, rows=rows, variant=variant, model="delay", version=1, shadow=False, reason="x")
        self.failures.append(record, at=moment)

    def close(self) -> None:
        for writer in (self.predictions, self.failures, self.labels):
            writer.close()


def evidence(lower: float = -0.1, upper: float = 0.1, **fields: Any):
    """Return a look at a rollout that always sees the same."""

    def look(_: Rollout) -> Comparison:
        values = {"labels": 5000, "champion_loss": 0.15, "challenger_loss": 0.15, "touched": 7, "scored": 5000}
        return Comparison(**{**values, "difference": (lower + upper) / 2, "lower": lower, "upper": upper, **fields})

    return look


BETTER, WORSE, UNCLEAR = evidence(-0.05, -0.01), evidence(0.02, 0.05), evidence()


def services(ws: Workspace) -> None:
    """Apply `delay@1`, then `delay@2`, which calls by the same names what another version of its view says."""
    add(ws, "flights", features.events_table([]))
    for ttl in (None, features.MINUTE):
        view = features.latest_view(keys=True, ttl=ttl)
        apply(ws, [view], [FeatureService(name="delay", features=("last:*",))])


def model_on(ws: Workspace, service: str | None, *, name: str = "delay") -> ModelVersion:
    """Register a model that looks up a feature service. Its model file is none that a runtime can read."""
    spec = ModelSpec(
        runtime="onnx", file="model.onnx", tensors={"numeric": ("last_delay",)}, output="score", feature_service=service,
        signature=Signature(inputs=(Column(name="last_delay", kind="double"),), outputs=(Column(name="score", kind="double"),)),
    )  # fmt: skip
    return register(ws, name, put_tree(ws.objects, {"model.onnx": str(service).encode(), SPEC_FILE: canonical(spec)}))


def three_models(ws: Workspace) -> None:
    """Register delay@1 to delay@3, each on newer data."""
    for number in range(1, 4):
        world.model(ws, slope=float(number), tags={"data_until": f"2013-0{number}-01"})
