"""`tidemill pipeline`: run the project's pipelines."""

from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, table
from tidemill.core.errors import Invalid
from tidemill.pipelines.engine import run_pipeline
from tidemill.pipelines.project import declared_pipelines, load_pipeline


@click.group()
def pipeline() -> None:
    """Pipelines: Python functions that never do the same work twice."""


@pipeline.command()
@click.argument("name")
@click.argument("params", nargs=-1, metavar="[PARAM=VALUE]...")
@workspace_options
@json_option
def run(name: str, params: tuple[str, ...], home: Path | None, project: str | None, as_json: bool) -> None:
    """Run pipeline NAME (as declared in tidemill.toml, or module:function) here and now."""
    ws = opened(home, project)
    found, declared = load_pipeline(ws.home, name)
    done = run_pipeline(ws, found, {**declared, **_pairs(params)})
    columns = ("step", "seconds", "reused", "run")
    rows = [(step.step, step.seconds, "yes" if step.cached else "no", step.run) for step in done.steps]
    summary = f"{done.executed} of {len(done.steps)} steps executed in {done.seconds:.2f} s"
    emit(done, as_json=as_json, text=lambda: f"{table(columns, rows)}\n{summary}")


@pipeline.command("list")
@workspace_options
@json_option
def list_(home: Path | None, project: str | None, as_json: bool) -> None:
    """List the pipelines that tidemill.toml declares."""
    found = declared_pipelines(opened(home, project).home)
    emit(found, as_json=as_json, text=lambda: table(("pipeline", "target", "params"), [(n, p.target, p.params) for n, p in found.items()]))


def _pairs(params: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for param in params:
        key, separator, value = param.partition("=")
        if not separator:
            raise Invalid(f"param {param!r} was not understood; expected NAME=VALUE")
        pairs[key] = value
    return pairs
