"""`tidemill trace`: from one answer back to what it came of."""

from datetime import datetime
from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import Branch, cell, emit, json_option, tree
from tidemill.deploy.trace import Trace
from tidemill.deploy.trace import trace as follow


@click.command()
@click.argument("prediction")
@click.option("--endpoint", help="The endpoint that answered. Default: look in the journals of all.")
@workspace_options
@json_option
def trace(prediction: str, endpoint: str | None, home: Path | None, project: str | None, as_json: bool) -> None:
    """Follow a PREDICTION back: what was said, feature values as of then, model, checks, runs, code, data, the decision to release it."""
    found = follow(opened(home, project), prediction, endpoint=endpoint)
    emit(found, as_json=as_json, text=lambda: tree(_branches(found)))


def _branches(found: Trace) -> Branch:
    said, model = found.prediction, found.model
    head = (
        f"prediction {said.id}: {cell(said.score)} at {_time(said.at)} UTC by {model.name}@{model.version}, from endpoint {said.endpoint}"
    )
    return head, [
        (f"came true: {cell(found.label) if found.label is not None else 'no label yet'}", []),
        *([("answered beside it", [(f"{name} = {cell(value)}", []) for name, value in said.outputs.items()])] if said.outputs else []),
        _values(found),
        (
            f"model {model.name}@{model.version}, made {_time(model.created_at)} by {model.actor}",
            [
                (f"bundle {model.bundle}", []),
                (f"checks: {model.verdict}", [(f"{c.result.verdict} {c.result.name}: {c.result.summary}", []) for c in found.checks]),
                ("runs", [(f"{run.kind} {run.name}, {run.status}  {run.id}", []) for run in found.runs]),
                (f"code: {found.code or 'no record'}", []),
                ("data", [(f"{data.name}@{data.version}, {data.rows} rows  {data.digest}", []) for data in found.datasets]),
                ("features", [(reference, []) for reference in found.features]),
            ],
        ),
        (
            "release",
            [(f"{_time(event.at)} {event.kind} by {event.actor}: {event.reason or 'no reason given'}", []) for event in found.release],
        ),
        (f"who answered then: {_shares(found)}", []),
    ]


def _values(found: Trace) -> Branch:
    if not found.prediction.inputs_kept:
        return "feature values: not kept (the endpoint's journal_inputs was below 1)", []
    return "feature values, as of then", [(f"{name} = {cell(value)}", []) for name, value in found.prediction.columns.items()]


def _shares(found: Trace) -> str:
    if found.route is None:
        return "no record"
    return ", ".join(f"{name} {share:.0%}" for name, share in found.route.route.shares.items() if share > 0)


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
