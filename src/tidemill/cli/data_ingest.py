"""`tidemill data ingest`: rows into a dataset as they come."""

from pathlib import Path

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import emit, json_option, on_terminal
from tidemill.core.process import StopSignal, on_stop
from tidemill.deploy.ingest import ROWS_MAX, IngestCounts, IngestRequest
from tidemill.deploy.ingest import ingest as run_ingest
from tidemill.features.sources import stream_of


@click.command()
@click.argument("name")
@click.option(
    "--from", "source",
    help="Topic to read (redis://HOST:PORT/DB/TOPIC, kafka://BROKER/TOPIC, file:FOLDER/TOPIC), or a folder to watch for new files. "
    "Default: the stream that NAME is declared to come from.",
)  # fmt: skip
@click.option("--key", multiple=True, help="Column that tells rows apart; several as A,B. Needed once for a topic.")
@click.option(
    "--rows", type=click.IntRange(1, ROWS_MAX), default=50_000, show_default=True, help="Most rows that become a version at once."
)
@click.option("--every", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="Seconds between two versions.")
@click.option("--once", is_flag=True, help="End when nothing is left to take.")
@click.option("--group", default="", help="Consumers of one group share a topic out. Default: one of the dataset's own.")
@click.option(
    "--claim-after", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True,
    help="Seconds until a silent consumer's messages are taken over.",
)  # fmt: skip
@workspace_options
@json_option
def ingest(
    name: str, source: str | None, key: tuple[str, ...], rows: int, every: float, once: bool, group: str, claim_after: float,
    home: Path | None, project: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Take rows into dataset NAME as they come, until told to stop (SIGTERM, Ctrl-C) or, with --once, until nothing is left.

    A row counts once, by the key, however often it comes; killed at any moment and started again it loses and doubles nothing. Rows that do
    not fit go to TOPIC.refused, or of files to NAME.quarantine, with the reason. With a key, feature views get the rows as well.
    """
    columns = tuple(column for given in key for column in given.split(","))
    ws, stopping = opened(home, project), StopSignal()
    place, declared = (source, ()) if source is not None else stream_of(ws, name)
    request = IngestRequest(
        dataset=name, source=place, key=columns or declared, rows=rows, every_s=every, once=once, group=group, claim_after_s=claim_after
    )  # fmt: skip
    on_stop(stopping.set)
    done = run_ingest(ws, request, stopping=stopping.is_set, watch=_show_ingest if on_terminal() else lambda _: None)
    if on_terminal():
        click.echo("\r\033[K", nl=False, err=True)
    emit(done, as_json=as_json, text=lambda: "\n".join((_ingested(done), *(f"refused {each}" for each in done.refused))))


def _ingested(done: IngestCounts) -> str:
    left = f"; {done.lag} still to be taken" if done.lag else ""
    return f"{done.new} new rows in {done.portions} portions, {done.duplicates} there already, {done.set_aside} set aside{left}"


def _show_ingest(done: IngestCounts) -> None:
    click.echo(f"\r\033[K{_ingested(done)}", nl=False, err=True)
