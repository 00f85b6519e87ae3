"""A workspace that has lived for some weeks: models, runs, an endpoint with traffic and labels, drift, an alert, rollouts, rules."""

from datetime import timedelta

import numpy as np

from tests import world
from tidemill.automate.rules import OnEvent, Rule, RunPipeline, set_rule
from tidemill.checks.check import CheckResult, Evidence, EvidenceTable
from tidemill.core.clock import micros
from tidemill.core.codec import encode_text
from tidemill.core.window import Window
from tidemill.datasets import versions as datasets
from tidemill.deploy.endpoints import create_endpoint
from tidemill.deploy.judge import Comparison
from tidemill.deploy.plans import shadow_canary_plan
from tidemill.deploy.rollouts import Rollout, advance, list_rollouts, start_rollout
from tidemill.govern.workspace import Workspace
from tidemill.monitor.monitors import MonitorSpec, WindowReference, create_monitor
from tidemill.monitor.service import run_due
from tidemill.registry.aliases import promote
from tidemill.registry.cards import attach_card
from tidemill.registry.versions import ModelVersion
from tidemill.serving.journal import JournalWriter, LabelRecord, PredictionRecord, labels_folder, predictions_folder
from tidemill.tracking.batches import log_metrics
from tidemill.tracking.runs import end_run, log_artifact, start_run

CARD = (
    "# Late arrivals\n\nPredicts whether a flight arrives more than 15 minutes late.\n\n- Trained on January to May\n- AUC 0.76 in June\n"
)


def live(ws: Workspace, *, weeks: int = 6, rows_an_hour: int = 8) -> str:
    """Fill a workspace with some weeks of life; return the id of the training run of the newest model."""
    datasets.add(ws, "flights", world.flights(1000), reason="January to May")
    datasets.add(ws, "weather", world.flights(300), reason="hourly, from the airports")
    run = train(ws, auc=0.761)
    first = version_of(ws, run, auc=0.761, verdict="pass")
    promote(ws, "delay", 1, alias="champion", reason="the first")
    create_endpoint(ws, "delay", "delay@1", reason="goes live")
    create_monitor(ws, weekly(ws), reason="watch it")
    when = OnEvent(kind="alert.opened")
    set_rule(ws, Rule(name="retrain-on-alert", when=when, do=RunPipeline(pipeline="train")), reason="keep up with the season")
    with_traffic = Traffic(ws, rows_an_hour=rows_an_hour)
    for week in range(weeks):
        with_traffic.week(shift=0.0 if week < 3 else 0.9 * (week - 2), variants={"v1": 1.0} if week < 4 else {"v1": 0.75, "v2": 0.25})
        run_due(ws, until=ws.clock.now())
        if week == 3:
            run = train(ws, auc=0.743)
            version_of(ws, run, auc=0.743, verdict="warn")
            start_rollout(ws, "delay", "delay@2", plan=shadow_canary_plan(), reason="fresher data")
            go_on(ws, better=True)
        if week == 4:
            run = train(ws, auc=0.51)
            version_of(ws, run, auc=0.51, verdict="fail")
    with_traffic.close()
    attach_card(ws, first, CARD)
    return run


def train(ws: Workspace, *, auc: float) -> str:
    """Record a pipeline with its steps."""
    whole = start_run(ws, "delay", name="train", kind="pipeline", params={"until": "2013-06-01", "trials": 12}, tags={"code": "3f2a9c0d"})
    last = ""
    for name, seconds in (("load", 3.1), ("features", 8.4), ("tune", 41.0), ("calibrate", 2.2), ("export", 1.3)):
        sources = ("dataset:flights@1", "dataset:weather@1") if name == "load" else (f"run:{last}",)
        step = start_run(ws, "delay", name=name, kind="step", parent=whole.id, sources=sources)
        if name == "tune":
            for trial in range(12):
                log_metrics(ws, step.id, {"auc": auc - 0.05 * float(np.exp(-trial / 3))})
        world.tick(ws, seconds=seconds)
        end_run(ws, step.id)
        last = step.id
    log_metrics(ws, whole.id, {"auc": auc, "brier": 0.2 - auc / 10, "ece": 0.021})
    log_artifact(ws, whole.id, "report/evidence.json", encode_text({"auc": auc}).encode())
    end_run(ws, whole.id)
    return last


def version_of(ws: Workspace, run: str, *, auc: float, verdict: str) -> ModelVersion:
    """Register a version with checks."""
    table = EvidenceTable(title="AUC by carrier", columns=("carrier", "flights", "auc"), rows=(("UA", 5123, 0.77), ("EV", 4821, 0.74)))
    values, bounds = {"auc": auc, "auc of the champion": 0.76}, {"auc": 0.73}
    checks = [
        CheckResult(
            name="not worse than the champion",
            verdict=verdict,
            summary=f"AUC {auc}, between {auc - 0.01:.3f} and {auc + 0.01:.3f}",
            evidence=Evidence(values=values, thresholds=bounds, tables=(table,)),
        ),
        CheckResult(name="calibration", verdict="pass", summary="calibration error 0.021, at most 0.05"),
        CheckResult(name="latency", verdict="pass", summary="p99 of 0.4 ms for one row, at most 5 ms"),
    ]
    return world.model(
        ws,
        slope=auc,
        run=run,
        checks=checks,
        metrics={"auc": auc, "brier": 0.13, "log_loss": 0.41, "ece": 0.02},
        tags={"data_until": ws.clock.now().date().isoformat(), "rows": "120000"},
        description="Will a flight arrive more than 15 minutes late?",
        reason="trained anew",
    )


def weekly(ws: Workspace) -> MonitorSpec:
    """A monitor that holds each week against the first."""
    now = ws.clock.now()
    reference = WindowReference(window=Window(start=now, end=now + timedelta(days=7)))
    return MonitorSpec(name="weekly", endpoint="delay", reference=reference, start=now + timedelta(days=7), rows_min=100, labels_min=100)


def go_on(ws: Workspace, *, better: bool) -> None:
    """Let the running rollout see good evidence and go on one stage."""
    world.tick(ws, days=2)
    side = -1 if better else 1

    def look(_: Rollout) -> Comparison:
        return Comparison(
            labels=2400, difference=side * 0.004, lower=side * 0.004 - 0.003, upper=side * 0.004 + 0.003, champion_loss=0.14,
            challenger_loss=0.14 + side * 0.004, touched=0, failed=0,
        )  # fmt: skip

    advance(ws, list_rollouts(ws, state="running")[0], look)


class Traffic:
    """Writes predictions and labels of an endpoint, hour by hour."""

    def __init__(self, ws: Workspace, *, rows_an_hour: int) -> None:
        self.ws, self.rows, self.number = ws, rows_an_hour, 0
        self.random = np.random.default_rng(0)
        self.predictions = JournalWriter(predictions_folder(ws.state, "delay"), "0")
        self.labels = JournalWriter(labels_folder(ws.state), "0")

    def week(self, *, shift: float, variants: dict[str, float]) -> None:
        """Answer for a week, then move the clock behind it."""
        for _ in range(7 * 24):
            at = micros(world.tick(self.ws, hours=1)) - 1
            self.hour(at, shift=shift, variants=variants)

    def hour(self, at: int, *, shift: float, variants: dict[str, float]) -> None:
        names = list(variants)
        wind, delay = self.random.normal(10 + 4 * shift, 3, self.rows), self.random.normal(0, 1, self.rows)
        score = 1 / (1 + np.exp(-(delay + 0.1 * (wind - 10) - 1)))
        truth = self.random.random(self.rows) < 1 / (1 + np.exp(-(delay * (1 - 0.25 * min(shift, 3)) + 0.3 * shift - 1)))
        self.number += 1
        ids = [f"{self.number:020d}{row:012d}" for row in range(self.rows)]
        self.predictions.append(
            PredictionRecord(
                at=at, received=at, ids=ids, columns={"wind": wind.tolist(), "delay": delay.tolist()}, scores=score.tolist(),
                variant=self.random.choice(len(names), self.rows, p=list(variants.values())).tolist(),
                variants=[(name, "delay", int(name[1:])) for name in names], shadow=False,
                latency_ms=float(self.random.gamma(4, 0.12)), trace_id="t",
            ),
            at=at,
        )  # fmt: skip
        later = at + 60_000_000
        self.labels.append(LabelRecord(received=later, ids=ids, values=[bool(value) for value in truth], at=[later] * self.rows), at=later)

    def close(self) -> None:
        self.predictions.close()
        self.labels.close()
