"""`tidemill rule`: when this happens, do that."""

from pathlib import Path

import click

from tidemill.automate import rules
from tidemill.automate.rules import Action, OnSchedule, RunPipeline, Trigger
from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, table


@click.group()
def rule() -> None:
    """Rules: when this event or hour comes, do that."""


@rule.command("list")
@workspace_options
@json_option
def list_(home: Path | None, project: str | None, as_json: bool) -> None:
    """List rules."""
    found = rules.list_rules(opened(home, project))
    columns = ("rule", "on", "when", "do", "rests", "with group", "reason")
    rows = [
        (r.name, "yes" if r.enabled else "no", _when(r.when), _do(r.do), r.cooldown or None, r.group or None, r.reason or None)
        for r in found
    ]
    emit(found, as_json=as_json, text=lambda: table(columns, rows))


@rule.command()
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@workspace_options
@json_option
def firings(limit: int, home: Path | None, project: str | None, as_json: bool) -> None:
    """List what rules did, or were kept from, newest first."""
    found = rules.list_firings(opened(home, project), limit=limit)
    columns = ("at", "rule", "outcome", "what", "trigger")
    emit(found, as_json=as_json, text=lambda: table(columns, [(f.at, f.rule, f.outcome, f.message, f.trigger) for f in found]))


def _when(trigger: Trigger) -> str:
    if isinstance(trigger, OnSchedule):
        return f"{trigger.cron} ({trigger.zone})"
    conditions = [f"{key} = {value}" for key, value in trigger.where.items()]
    return " ".join(
        [trigger.kind, *([f"of {trigger.subject}"] if trigger.subject else []), *(["where"] if conditions else []), ", ".join(conditions)]
    ).rstrip()


def _do(action: Action) -> str:
    if isinstance(action, RunPipeline):
        return " ".join([f"run {action.pipeline}", *(f"{key}={value}" for key, value in action.params.items())])
    return f"roll out to {action.endpoint}: {action.plan.policy}"
