"""Train, judge and register a model of "will this flight arrive more than 15 minutes late?". Run it with: tidemill pipeline run train"""

from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

import tidemill as tm
from features import FEATURES

MODEL = "delay"
SERVICE = "delay"
NUMERIC = ("distance", "hour", "weekday")
CATEGORICAL = ("carrier", "origin", "dest")
COLUMNS = (*NUMERIC, *FEATURES)
ROWS = ("flight_id", "scored_at", "tailnum", "late", *NUMERIC, *CATEGORICAL)
SPACE = {
    "rounds": tm.Whole(low=60, high=160),
    "learning_rate": tm.Real(low=0.05, high=0.2, log=True),
    "num_leaves": tm.Whole(low=8, high=32, log=True),
}


@tm.step(cache=False)
def sources(ctx: tm.StepContext) -> dict[str, str]:
    """Pin the newest version of each dataset, so that everything behind this step is a function of what it reads."""
    return {name: f"{name}@{tm.read_dataset(ctx.ws, name).version}" for name in ("flights", "weather", "planes")}


@tm.step
def training_set(ctx: tm.StepContext, sources: dict[str, str], days: int) -> pa.Table:
    """The flights of the last days with all that was known when each was about to leave."""
    flights = tm.open_table(ctx.ws, sources["flights"], columns=list(ROWS))
    newest = pc.max(flights["scored_at"])
    since = pc.subtract(newest, pa.scalar(timedelta(days=days), pa.duration("us")))
    rows = tm.history(ctx.ws, flights.filter(pc.greater(flights["scored_at"], since)), SERVICE, timestamp="scored_at", sources=sources)
    for source in sources.values():
        ctx.reads(f"dataset:{source}")
    ctx.log(rows=rows.num_rows)
    return rows


@tm.step
def tuned(ctx: tm.StepContext, rows: pa.Table, holdout_days: int, trials: int, seed: int) -> tm.TreeParams:
    """Look for good params on the days before the ones that the model is judged on."""
    learn, _ = tm.split_by_time(rows, timestamp="scored_at", last=timedelta(days=holdout_days))
    fit, watch = tm.split_by_time(learn, timestamp="scored_at", last=timedelta(days=holdout_days))
    found = tm.tune_trees(
        fit, watch, SPACE, label="late", numeric=COLUMNS, categorical=CATEGORICAL, trials=trials, seed=seed, on_trial=ctx.log_trial
    )
    ctx.log(best_auc=found.best.value or 0.0)
    return tm.best_params(found)


@tm.step
def fitted(ctx: tm.StepContext, rows: pa.Table, params: tm.TreeParams, holdout_days: int, seed: int) -> tm.TrainedModel:
    """Fit on everything but the last days, calibrate on the days before those."""
    learn, _ = tm.split_by_time(rows, timestamp="scored_at", last=timedelta(days=holdout_days))
    fit, calibrate = tm.split_by_time(learn, timestamp="scored_at", last=timedelta(days=holdout_days))
    return tm.train(fit, calibrate, label="late", numeric=COLUMNS, categorical=CATEGORICAL, params=params, seed=seed)


@tm.step
def exported(ctx: tm.StepContext, model: tm.TrainedModel, rows: pa.Table, holdout_days: int) -> dict[str, object]:
    """Write the model as ONNX, with the features that the server looks up for it, and compare its answers with the original's."""
    _, unseen = tm.split_by_time(rows, timestamp="scored_at", last=timedelta(days=holdout_days))
    onnx = tm.to_onnx(model)
    parity = tm.check_parity(onnx, model.encoding, unseen, tm.score(model, unseen))
    spec = tm.model_spec(model.encoding, feature_service=tm.read_service(ctx.ws, SERVICE).reference, features=FEATURES, threshold=0.5)
    bundle = tm.write_bundle(ctx.ws.objects, onnx, spec)
    return {"bundle": bundle, "parity": tm.parity_check(parity.largest, parity.rows, bound=parity.bound)}


@tm.step(cache=False)
def judged(ctx: tm.StepContext, exported: dict[str, object], rows: pa.Table, holdout_days: int) -> list[tm.CheckResult]:
    """Ask all questions on the last days, which nothing above has learnt from."""
    _, unseen = tm.split_by_time(rows, timestamp="scored_at", last=timedelta(days=holdout_days))
    store, bundle = ctx.ws.objects, exported["bundle"]
    labels, scores = unseen["late"].to_numpy(zero_copy_only=False), tm.score_bundle(store, bundle, unseen)
    checks = [
        tm.quality_check(labels, scores, auc_min=0.55),
        tm.calibration_check(labels, scores, error_max=0.05),
        tm.slices_check(unseen, labels, scores, by=("carrier", "origin"), drop_max=0.15),
        *tm.budget_checks(store, bundle, unseen, p99_ms_max=5.0, size_bytes_max=5_000_000),
        tm.convert(exported["parity"], tm.CheckResult),
    ]
    champion = tm.find_alias(ctx.ws, MODEL, "champion")
    if champion is not None:
        checks.append(tm.champion_check(labels, scores, tm.score_bundle(store, champion.bundle, unseen), margin=0.01))
    ctx.log(**checks[0].evidence.values)
    return checks


@tm.step(cache=False)
def registered(
    ctx: tm.StepContext,
    exported: dict[str, object],
    checks: list[tm.CheckResult],
    rows: pa.Table,
    holdout_days: int,
    sources: dict[str, str],
) -> dict[str, object]:
    """Register a version with its evidence and a card; the rule that watches for new versions takes it from there."""
    newest = pc.max(rows["scored_at"]).as_py()
    _, unseen = tm.split_by_time(rows, timestamp="scored_at", last=timedelta(days=holdout_days))
    scores = [None] * (rows.num_rows - unseen.num_rows) + tm.score_bundle(ctx.ws.objects, exported["bundle"], unseen).tolist()
    seen = rows.select(["scored_at", "late", *COLUMNS, *CATEGORICAL]).append_column("score", pa.array(scores, pa.float64()))
    reference = tm.put_table(ctx.ws.objects, seen.rename_columns(["event_timestamp", "label", *seen.column_names[2:]]))
    version = tm.register(
        ctx.ws,
        MODEL,
        exported["bundle"],
        run=ctx.run,
        checks=checks,
        metrics={key: value for check in checks[:2] for key, value in check.evidence.values.items()},
        tags={"made_by": "train", "data_until": newest.isoformat(), "reference": reference},
        sources=[f"dataset:{source}" for source in sources.values()],
        description="Will this flight arrive more than 15 minutes late?",
        reason="trained by the pipeline",
        cause=ctx.cause,
    )
    tm.write_card(
        ctx.ws,
        version,
        checks,
        sources=list(sources.values()),
        purpose="The probability that a flight out of New York arrives more than 15 minutes late, told at its scheduled departure.",
        limits="Flights from EWR, JFK and LGA in 2013 only. Cancelled and diverted flights have no outcome and are not learnt from.",
    )
    return {"model": version.name, "version": version.version}


@tm.pipeline
def train(days: int = 400, holdout_days: int = 14, trials: int = 4, seed: int = 0) -> None:
    """From the newest datasets to a registered version."""
    pinned = sources()
    rows = training_set(pinned, days)
    params = tuned(rows, holdout_days, trials, seed)
    model = fitted(rows, params, holdout_days, seed)
    bundle = exported(model, rows, holdout_days)
    registered(bundle, judged(bundle, rows, holdout_days), rows, holdout_days, pinned)


@tm.step(cache=False)
def swapped(ctx: tm.StepContext, one: str, other: str) -> dict[str, object]:
    """Take the champion's bundle and feed two of its columns in each other's place: the bug that the canary has to catch."""
    champion = tm.read_model(ctx.ws, f"{MODEL}@champion")
    spec = tm.read_spec(ctx.ws, champion.bundle)
    other_of = {one: other, other: one}
    tensors = {tensor: tuple(other_of.get(name, name) for name in names) for tensor, names in spec.tensors.items()}
    files = {entry.path: ctx.ws.objects.get(entry.digest) for entry in tm.read_tree(ctx.ws.objects, champion.bundle).entries}
    model = files[spec.file]
    bundle = tm.write_bundle(ctx.ws.objects, model, tm.replace(spec, tensors=tensors))
    tags = {**champion.tags, "made_by": "hand", "data_until": ctx.now().isoformat()}
    version = tm.register(ctx.ws, MODEL, bundle, run=ctx.run, tags=tags, reason="a hurried change, not checked", cause=ctx.cause)
    return {"model": version.name, "version": version.version}


@tm.pipeline
def plant(one: str = "hour", other: str = "distance") -> None:
    """Register a broken version: two feature columns swapped."""
    swapped(one, other)
