"""`tidemill predict`: rows of the command line through the data plane, whole tables in batch jobs, streams."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tidemill.cli.opening import opened, workspace_options
from tidemill.cli.show import MOMENTS, cell, emit, json_option, on_terminal, table
from tidemill.client.client import connect
from tidemill.core.codec import decode_any
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.process import StopSignal, on_stop
from tidemill.core.settings import caller_environment, find_home
from tidemill.deploy.journal_log import read_log
from tidemill.serving.batch.job import BATCH_ROWS, BatchRequest, BatchResult, score_batch
from tidemill.serving.streams.scoring import StreamCounts, StreamRequest, score_stream


class _Predict(click.Group):
    """`predict ENDPOINT …` is short for `predict rows ENDPOINT …`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["rows", *args])


@click.group(cls=_Predict, context_settings={"ignore_unknown_options": True})
def predict() -> None:
    """Predictions. `tidemill predict ENDPOINT …` is short for `tidemill predict rows ENDPOINT …`."""


@predict.command()
@click.argument("endpoint")
@click.argument("given", nargs=-1, metavar="[JSON | @FILE | - | NAME=VALUE...]")
@click.option("--url", help="Server to ask. Default: TIDEMILL_URL, else the one of the workspace.")
@workspace_options
@json_option
def rows(endpoint: str, given: tuple[str, ...], url: str | None, home: Path | None, project: str | None, as_json: bool) -> None:
    """Score rows with ENDPOINT, as it is served now: JSON (an object or a list of them), a file of it, standard input, or one row's values.

    A file, or standard input, may hold an object a line. The predictions are journaled as any others.
    """
    place = url or caller_environment().get("url") or f"workspace:{home or find_home()}"
    with connect(place, project=project) as client:
        answer = client.predict(endpoint, _rows(given))
    columns = ("id", "score", "label", "variant", "version")
    emit(
        {"predictions": list(answer)},
        as_json=as_json,
        text=lambda: table(
            (*columns, *answer.outputs), [[*(getattr(each, name) for name in columns), *(each.outputs or {}).values()] for each in answer]
        ),
    )


@predict.command()
@click.argument("model", required=False, metavar="[MODEL@VERSION|MODEL@ALIAS]")
@click.option("--endpoint", help="Score with what this endpoint answers with, and its threshold, in the place of a model version.")
@click.option("--data", help="Rows: a dataset version (NAME@VERSION, or NAME for the newest), or a .parquet, .csv or .tsv file.")
@click.option("--sql", help='Rows: a SELECT of DuckDB over datasets, named NAME or "NAME@VERSION".')
@click.option("--to", required=True, help="Dataset that gets the scores as a version.")
@click.option("--key", help="Column that names a row: the first of the output.")
@click.option("--columns", multiple=True, help="Further column to keep; may be given several times, or as A,B,C.")
@click.option("--at", help="Column with the moment of each row (a timestamp with a time zone), for models that look features up.")
@click.option("--on-bad", type=click.Choice(["fail", "null"]), default="fail", show_default=True, help="For rows that the model refuses.")
@click.option("--executor", help="inline, local (a process a core), ray or ray:ADDRESS. Default: the setting 'executor'.")
@click.option("--workers", type=click.IntRange(1), help="Processes of the executor local.")
@click.option("--batch-rows", type=click.IntRange(1), default=BATCH_ROWS, show_default=True, help="Rows that a worker scores at once.")
@click.option("--memory-mb", type=click.IntRange(1), help="Memory that rows under way may take, all workers together.")
@workspace_options
@json_option
def batch(
    model: str | None,
    endpoint: str | None,
    data: str | None,
    sql: str | None,
    to: str,
    key: str | None,
    columns: tuple[str, ...],
    at: str | None,
    on_bad: Any,
    executor: str | None,
    workers: int | None,
    batch_rows: int,
    memory_mb: int | None,
    home: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Score every row of a table into a dataset version: same order, one row each.

    Started again after a kill it goes on; the same command again changes nothing. Nothing is published before all is scored.
    """
    request = BatchRequest(
        to=to, model=model, endpoint=endpoint, data=data, sql=sql, key=key, at=at, on_bad=on_bad, batch_rows=batch_rows,
        columns=tuple(name for given in columns for name in given.split(",")), memory_mb=memory_mb, executor=_executor(executor, workers),
    )  # fmt: skip
    try:
        done = score_batch(opened(home, project), request, watch=_show_progress if on_terminal() else None)
    finally:
        if on_terminal():
            click.echo("\r\033[K", nl=False, err=True)
    emit(done, as_json=as_json, text=lambda: _told(done))


@predict.command()
@click.argument("endpoint", metavar="ENDPOINT|MODEL@VERSION|MODEL@ALIAS")
@click.option(
    "--from", "source", required=True, help="Topic to read: redis://HOST:PORT/DB/TOPIC, kafka://BROKER/TOPIC or file:FOLDER/TOPIC."
)
@click.option("--to", "target", required=True, help="Topic of the same place that gets the answers.")
@click.option("--key", help="Field of a record that names it. Default: the message's own key, else its place in the topic.")
@click.option("--group", default="tidemill", show_default=True, help="Consumers of one group share the messages out.")
@click.option("--limit", type=click.IntRange(1), help="Messages after which to end.")
@click.option("--until-idle", type=click.FloatRange(0, min_open=True), help="Seconds without a message after which to end.")
@click.option(
    "--claim-after",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds until a silent consumer's messages are taken over.",
)
@workspace_options
@json_option
def stream(
    endpoint: str,
    source: str,
    target: str,
    key: str | None,
    group: str,
    limit: int | None,
    until_idle: float | None,
    claim_after: float,
    home: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Answer the records of one topic into another, each key once, until told to stop (SIGTERM, Ctrl-C) or done.

    A record that the model refuses goes to TOPIC.refused with the reason. Killed at any moment and started again, it goes on: no
    message is lost and no key answered twice. Predictions are journaled as any others.
    """
    named = {"model": endpoint} if "@" in endpoint else {"endpoint": endpoint}
    request = StreamRequest(
        source=source, target=target, key=key, group=group, limit=limit, until_idle_s=until_idle, claim_after_s=claim_after, **named
    )  # fmt: skip
    ws, stopping = opened(home, project), StopSignal()
    on_stop(stopping.set)
    done = score_stream(ws, request, stopping=stopping.is_set, watch=_show_stream if on_terminal() else lambda _: None)
    if on_terminal():
        click.echo("\r\033[K", nl=False, err=True)
    emit(done, as_json=as_json, text=lambda: _counted(done))


@predict.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--endpoint", help="The endpoint whose label key the column 'key' holds.")
@click.option("--url", help="Server to ask. Default: TIDEMILL_URL, else the one of the workspace.")
@workspace_options
@json_option
def feedback(file: Path, endpoint: str | None, url: str | None, home: Path | None, project: str | None, as_json: bool) -> None:
    """Tell what came true: FILE is CSV with the columns id or key, value, and at if known, or has a JSON object of these a line.

    A label by key is that of the last prediction about the key that was made by then. The same file again changes nothing.
    """
    place = url or caller_environment().get("url") or f"workspace:{home or find_home()}"
    with connect(place, project=project) as client:
        kept = client.predictions.feedback_file(file, endpoint=endpoint)
        pending = client.endpoints.journal(endpoint)["pending"] if endpoint is not None else 0
    told = f"{kept:,} labels kept" + (f"; {pending:,} keys wait for their prediction" if pending else "")
    emit({"accepted": kept, "pending": pending}, as_json=as_json, text=lambda: told)


@predict.command()
@click.argument("endpoint")
@click.option("--since", type=click.DateTime(MOMENTS), help="From when on, UTC unless it names a zone.")
@click.option("--until", type=click.DateTime(MOMENTS), help="Until before when.")
@click.option("--sql", help="A SELECT of DuckDB over the tables predictions (of that span) and labels.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Rows shown.")
@workspace_options
@json_option
def log(
    endpoint: str, since: datetime | None, until: datetime | None, sql: str | None, limit: int, home: Path | None, project: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Show what ENDPOINT predicted, newest first, with what came true: from the journal, wherever its days lie."""
    found = read_log(opened(home, project), endpoint, since=_utc(since), until=_utc(until), sql=sql, limit=limit)
    told = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    more = f"\nand more: --limit {limit * 10} shows them" if found.more else ""
    emit({"rows": told, "more": found.more}, as_json=as_json, text=lambda: table(found.columns, found.rows) + more)


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _executor(executor: str | None, workers: int | None) -> str | None:
    if workers is None:
        return executor
    if executor not in (None, "local"):
        raise Invalid(f"--workers {workers} is for the executor local, not for {executor!r}; leave one of them out")
    return f"local:{workers}"


def _told(done: BatchResult) -> str:
    line = f"{done.dataset}@{done.version}  {done.rows} rows  {done.digest}"
    if done.again:
        return f"{line}\nscored before (run {done.run}); nothing was done"
    refused = f", {done.refused} of them refused and without a score" if done.refused else ""
    resumed = f"; {done.resumed} of {done.shards} shards were there from an earlier start" if done.resumed else ""
    return f"{line}\nscored in {cell(done.seconds)} s{refused}{resumed}  (run {done.run})"


def _show_progress(done: int, before: int, total: int, seconds: float) -> None:
    rate = (done - before) / seconds if seconds > 0 else 0.0
    left = f"{(total - done) / rate:.0f} s left" if rate > 0 else ""
    click.echo(f"\r\033[K{done:,} of {total:,} rows  {rate:,.0f} rows/s  {left}", nl=False, err=True)


def _counted(done: StreamCounts) -> str:
    rate = f", {done.read / done.seconds:,.0f} a second" if done.seconds else ""
    return f"{done.read} messages{rate}: {done.answered} answered, {done.again} answered before, {done.refused} refused"


def _show_stream(done: StreamCounts) -> None:
    click.echo(f"\r\033[K{_counted(done)}", nl=False, err=True)


def _rows(given: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the rows that a command line gives. Raises Invalid, NotFound."""
    if given and all("=" in word and not word.startswith(("{", "[", "@")) for word in given):
        return [{name: _value(text) for name, _, text in (word.partition("=") for word in given)}]
    if len(given) != 1:
        raise Invalid("rows were not understood; give JSON, @FILE, - for standard input, or the values of one row as NAME=VALUE")
    (word,) = given
    text = _read(word[1:]) if word.startswith("@") else sys.stdin.read() if word == "-" else word
    lines = [line for line in text.splitlines() if line.strip()]
    single = len(lines) < 2 or not all(line.startswith("{") for line in lines)
    found = decode_any(text, what="rows") if single else [decode_any(line, what=f"row {number}") for number, line in enumerate(lines)]
    listed = found if isinstance(found, list) else [found]
    if not listed or not all(isinstance(row, dict) for row in listed):
        raise Invalid('rows were not understood; expected objects of column names and values, as in {"carrier": "UA", "wind": 4.0}')
    return listed


def _read(name: str) -> str:
    try:
        return Path(name).read_text("utf-8")
    except FileNotFoundError:
        raise NotFound(f"there is no file {name}; give the path of a file of JSON behind the @") from None


def _value(text: str) -> Any:
    """Return a value of the command line: a number, true, false or null as JSON has it, else the text itself."""
    try:
        return decode_any(text)
    except Invalid:
        return text
