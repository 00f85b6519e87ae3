"""`tidemill demo`: a year of real flights through the whole loop."""

import tempfile
from pathlib import Path

import click

from tidemill.cli.show import on_terminal, table
from tidemill.core.clock import wait_until
from tidemill.core.codec import encode_text
from tidemill.core.process import on_stop
from tidemill.simulate.demo import MONTHS, Demo
from tidemill.simulate.report import DemoReport


@click.command()
@click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), help="Folder for the workspace: new or empty. Default: a temporary one."
)
@click.option("--months", type=click.IntRange(1, MONTHS), default=MONTHS, show_default=True, help="Months to replay, from June on.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all that is drawn by chance.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures to this file as JSON.")
@click.option("--no-serve", is_flag=True, help="End when the replay has ended. Default: leave the dashboard running on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def demo(home: Path | None, months: int, seed: int, report: Path | None, no_serve: bool, as_json: bool) -> None:
    """Replay flights out of New York, June to December 2013: train, serve, drift, retrain, challenge, roll back, promote."""
    folder = (home or Path(tempfile.mkdtemp(prefix="tidemill-demo-"))).resolve()
    replay = Demo(folder, months=months, seed=seed, say=_say, show=_show if on_terminal() else _quiet)
    on_stop(_end)
    try:
        figures = replay.run()
        if report is not None:
            report.write_text(encode_text(figures, indent=2) + "\n", "utf-8")
        _clear()
        click.echo(encode_text(figures, indent=2) if as_json else _text(figures))
        if not no_serve and on_terminal():
            _say(f"the dashboard is at {replay.server.served.url}; Ctrl-C ends it")
            wait_until(lambda: False, timeout_s=float("inf"), every_s=0.1)
    finally:
        replay.stop()


def _text(figures: DemoReport) -> str:
    months = table(
        ("month", "flights", "late", "AUC live", "AUC frozen", "Brier live", "Brier frozen", "alerts", "promoted"),
        [
            (
                m.month,
                m.flights,
                m.late_share,
                m.auc_live,
                m.auc_frozen,
                m.brier_live,
                m.brier_frozen,
                m.alerts,
                " ".join(f"v{v}" for v in m.versions),
            )
            for m in figures.months
        ],
    )
    rollouts = table(
        ("version", "policy", "started", "ended", "outcome", "answers touched", "why"),
        [(f"v{r.version}", r.policy, r.started, r.ended, r.outcome, r.requests_touched, r.reason) for r in figures.rollouts],
    )
    planted = figures.planted
    caught = (
        f"the planted version touched {planted.requests_touched} answers and was {planted.outcome.replace('_', ' ')}"
        if planted
        else "nothing was planted"
    )
    parts = table(("part", "seconds"), list(figures.seconds_by_part.items()))
    counts = (
        f"{figures.flights_scored} flights scored, {figures.predictions_acknowledged} predictions acknowledged, "
        f"{figures.predictions_journaled} journaled, {figures.labels_joined} labels joined"
    )
    loop = f"{len(figures.alerts)} alerts, {figures.retrains} retrains, {figures.promotions} promotions, {figures.rollbacks} rollbacks"
    skew = f"{figures.skew.values:,} features as served held against history, {figures.skew.differ} differ"
    audit = f"{figures.events} events in the audit log, chain {'unbroken' if figures.audit_verified else 'BROKEN'}"
    follow = f"follow one answer back: tidemill trace {figures.trace['prediction']['id']} --home {figures.home}"
    return "\n\n".join(
        [months, rollouts, f"{counts}\n{loop}; {caught}\n{skew}\n{audit}\n{follow}", parts, f"{figures.seconds:.1f} seconds in all"]
    )


def _end() -> None:
    raise click.Abort


def _say(line: str) -> None:
    _clear()
    click.echo(line, err=True)


def _show(line: str) -> None:
    click.echo(f"\r\x1b[2K{line}", err=True, nl=False)


def _quiet(_line: str) -> None:
    """Progress is kept out of pipes."""


def _clear() -> None:
    if on_terminal():
        click.echo("\r\x1b[2K", err=True, nl=False)
