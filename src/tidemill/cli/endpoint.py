"""`tidemill endpoint`: names that callers use, what answers behind them, and how that changes."""

from pathlib import Path
from typing import Any

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, table
from tidemill.core.codec import decode, encode_text
from tidemill.deploy import endpoints, rollouts
from tidemill.deploy.endpoints import Endpoint, Route
from tidemill.deploy.plans import POLICIES, RolloutPlan
from tidemill.serving.config import EndpointOptions
from tidemill.serving.dashboard import dashboard as grafana
from tidemill.serving.openapi import document


@click.group()
def endpoint() -> None:
    """Endpoints: names that callers use, with model versions behind them."""


@endpoint.command("list")
@workspace_options
@json_option
def list_(home: Path | None, project: str | None, as_json: bool) -> None:
    """List endpoints with who answers now."""
    found = endpoints.list_endpoints(opened(home, project))
    columns = ("endpoint", "model", "answers", "scores along", "sticky by", "made")
    rows = [(e.name, e.model, _shares(e.route), " ".join(e.route.shadows) or None, e.sticky_by, e.created_at) for e in found]
    emit(found, as_json=as_json, text=lambda: table(columns, rows))


@endpoint.command()
@click.argument("name")
@workspace_options
@json_option
def show(name: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Show who answers behind NAME, and every route that it had."""
    ws = opened(home, project)
    found, spans = endpoints.read_endpoint(ws, name), endpoints.route_history(ws, name)
    columns = ("from", "to", "answers", "scores along", "by", "reason")
    rows = [(s.valid_from, s.valid_to, _shares(s.route), " ".join(s.route.shadows) or None, s.actor, s.reason) for s in spans]
    emit({"endpoint": found, "routes": spans}, as_json=as_json, text=lambda: f"{_head(found)}\n\n{table(columns, rows)}")


@endpoint.command()
@click.argument("name")
@click.argument("model", required=False)
@click.option("--model", "named", help="The same as MODEL.")
@click.option("--sticky-by", help="Column whose value decides which variant answers. Default: each prediction for itself.")
@click.option("--benchmark", help="A version that scores everything along and never answers: the yardstick.")
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def create(
    name: str,
    model: str | None,
    named: str | None,
    sticky_by: str | None,
    benchmark: str | None,
    reason: str,
    home: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Make endpoint NAME, answered by MODEL (NAME@VERSION or NAME@ALIAS)."""
    if (model is None) == (named is None):
        raise click.UsageError("say once which MODEL answers, as NAME@VERSION or NAME@ALIAS")
    made = endpoints.create_endpoint(
        opened(home, project), name, model or named or "", sticky_by=sticky_by, benchmark=benchmark, reason=reason
    )
    emit(made, as_json=as_json, text=lambda: f"{_head(made)}\nask it with: POST /predict/{name}")


@endpoint.command("set")
@click.argument("name")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Turns scores into labels, over the one that the model brings.")
@click.option("--no-threshold", is_flag=True, help="Go by the threshold that the model brings.")
@click.option("--cached-rows", type=click.IntRange(0), help="For so many rows, say again what the model said of the same row; 0: never.")
@click.option("--journal-inputs", type=click.FloatRange(0, 1), help="Share of predictions whose inputs are journaled.")
@click.option("--journal-drop", help='Columns that are never journaled, as A,B; "": none.')
@click.option("--journal-hash", help='Columns that are journaled as keyed digests only, as A,B; "": none.')
@click.option("--journal-days", type=click.IntRange(0), help="Days after which predictions and their labels are removed; 0: never.")
@click.option("--label-key", help='Column whose values labels may come by, for example an order\'s number; "": none.')
@click.option("--reason", default="", help="Why.")
@workspace_options
@json_option
def set_(
    name: str,
    threshold: float | None,
    no_threshold: bool,
    cached_rows: int | None,
    journal_inputs: float | None,
    journal_drop: str | None,
    journal_hash: str | None,
    journal_days: int | None,
    label_key: str | None,
    reason: str,
    home: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Change how endpoint NAME serves."""
    given = {"threshold": threshold, "cached_rows": cached_rows, "journal_inputs": journal_inputs, "journal_days": journal_days}
    changes: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    changes |= {
        option: [column for column in columns.split(",") if column]
        for option, columns in (("journal_drop", journal_drop), ("journal_hash", journal_hash))
        if columns is not None
    }
    if label_key is not None:
        changes["label_key"] = label_key or None
    if no_threshold:
        if threshold is not None:
            raise click.UsageError("--threshold and --no-threshold contradict each other; give one of them")
        changes["threshold"] = None
    if not changes:
        raise click.UsageError("nothing to change was given; name an option, for example --cached-rows 10000")
    made = endpoints.change_endpoint(opened(home, project), name, changes, reason=reason)
    emit(made, as_json=as_json, text=lambda: _head(made))


@endpoint.command()
@click.argument("name")
@click.argument("model")
@click.option("--policy", type=click.Choice(sorted(POLICIES)), default="canary", show_default=True, help="How the challenger takes over.")
@click.option("--plan", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A plan of your own, as a JSON file.")
@click.option("--reason", default="", help="Why.")
@click.option("--override", is_flag=True, help="Even though its checks failed; approvers only, with a reason.")
@workspace_options
@json_option
def rollout(
    name: str,
    model: str,
    policy: str,
    plan: Path | None,
    reason: str,
    override: bool,
    home: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Set MODEL (NAME@VERSION or NAME@ALIAS) against the version that leads endpoint NAME."""
    chosen = decode(plan.read_bytes(), RolloutPlan, what=str(plan)) if plan is not None else POLICIES[policy]()
    made = rollouts.start_rollout(opened(home, project), name, model, plan=chosen, reason=reason, override=override)
    stages = ", ".join(f"{stage.share:.0%}" for stage in chosen.stages)
    text = f"{made.challenger.name} is set against {made.champion.name} of {name}: {chosen.policy}, by stages of {stages}"
    emit(made, as_json=as_json, text=lambda: text)


@endpoint.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why.")
@workspace_options
@json_option
def rollback(name: str, reason: str, home: Path | None, project: str | None, as_json: bool) -> None:
    """Take the newest change of NAME back: end a running rollout, else return to the version that led before."""
    found = rollouts.roll_back(opened(home, project), name, reason=reason)
    emit(found, as_json=as_json, text=lambda: f"endpoint {name} is answered by {_shares(found.route)} now")


@endpoint.command("rollouts")
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@workspace_options
@json_option
def rollouts_(name: str | None, limit: int, home: Path | None, project: str | None, as_json: bool) -> None:
    """List rollouts, of endpoint NAME or of all, newest first."""
    found = rollouts.list_rollouts(opened(home, project), endpoint=name, limit=limit)
    columns = ("endpoint", "challenger", "champion", "policy", "stage", "state", "started", "ended", "answers", "why")
    rows = [
        (
            r.endpoint,
            r.challenger.name,
            r.champion.name,
            r.plan.policy,
            f"{r.stage + 1} of {len(r.plan.stages)}",
            r.state,
            r.started_at,
            r.ended_at,
            r.seen.touched if r.seen else None,
            r.reason,
        )
        for r in found
    ]
    emit(found, as_json=as_json, text=lambda: table(columns, rows))


@endpoint.command()
@json_option
def dashboard(as_json: bool) -> None:
    """Print a Grafana dashboard of the serving workers, to be imported there; its data source is the Prometheus that scrapes them."""
    emit(grafana(), as_json=as_json, text=lambda: encode_text(grafana(), indent=2))


@endpoint.command()
@json_option
def openapi(as_json: bool) -> None:
    """Print the OpenAPI document of the serving workers. Theirs, at GET /openapi.json, describes the rows of each endpoint as well."""
    emit(document({}), as_json=as_json, text=lambda: encode_text(document({}), indent=2))


def _head(found: Endpoint) -> str:
    lines = [f"endpoint {found.name} of model {found.model}, answered by {_shares(found.route)}"]
    if found.route.shadows:
        lines.append(f"score along: {', '.join(found.route.shadows)}")
    if found.benchmark:
        lines.append(f"yardstick: {found.benchmark.name}")
    if found.sticky_by:
        lines.append(f"sticky by: {found.sticky_by}")
    if found.options.threshold is not None:
        lines.append(f"threshold: {found.options.threshold:g}")
    if found.options.cached_rows:
        lines.append(f"cached rows: {found.options.cached_rows:,}")
    return "\n".join([*lines, *_policy(found.options)])


def _policy(options: EndpointOptions) -> list[str]:
    """Return what is told of an endpoint's journal where it does not keep everything."""
    lines = []
    if options.journal_inputs < 1:
        lines.append(f"journal: inputs of {options.journal_inputs:.4g} of all predictions are kept")
    if options.journal_drop:
        lines.append(f"journal: never written: {', '.join(options.journal_drop)}")
    if options.journal_hash:
        lines.append(f"journal: written as digests: {', '.join(options.journal_hash)}")
    if options.journal_days:
        lines.append(f"journal: removed after {options.journal_days} days")
    if options.label_key:
        lines.append(f"labels may come by: {options.label_key}")
    return lines


def _shares(route: Route) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in route.shares.items() if share > 0)
