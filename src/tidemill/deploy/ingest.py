"""A dataset that grows by itself: the messages of a topic, or the files of a folder, each taken once, until told to stop."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from tidemill.core.clock import elapsed, wait_until
from tidemill.core.errors import Invalid
from tidemill.core.values import Meta, Value, replace
from tidemill.datasets.intake import Taken
from tidemill.datasets.keys import read_key, set_key
from tidemill.datasets.rows import Misfit, read_record
from tidemill.deploy.arrivals import arrive
from tidemill.deploy.folder import Folder
from tidemill.govern.workspace import Workspace
from tidemill.store.streams import Flow, Message, Outcome, refused
from tidemill.store.table import STREAMS, open_flow

WAIT_S = 0.5
DRAINED_S = 3.0
LOOK_S = 0.05
LAG_S = 5.0
ROWS_MAX = 200_000  # more are too many for Redis to take off in one step
Positive = Annotated[float, Meta(gt=0)]


class IngestRequest(Value, frozen=True, kw_only=True):
    """What to take, and into which dataset. source: `SCHEME:PLACE/TOPIC`, or a folder.

    key: the columns that tell one row from another, if the dataset has not been told yet. rows: the most that become a version at once;
    every_s: the seconds between two versions where fewer come. once: end when nothing is left. group: consumers of one group share a
    topic out; one of the dataset's own unless told. claim_after_s: the silence after which a consumer counts as dead, where its death
    cannot be seen.
    """

    dataset: str
    source: str
    key: tuple[str, ...] = ()
    rows: Annotated[int, Meta(ge=1, le=ROWS_MAX)] = 50_000
    every_s: Positive = 10.0
    once: bool = False
    group: str = ""
    claim_after_s: Positive = 30.0


class IngestCounts(Value, frozen=True, kw_only=True):
    """What was done: rows read, new, there already, and set aside (of a topic: to TOPIC.refused); portions that were taken.

    lag: messages, or files, that are still to be taken; None where nobody tells. refused: files of which nothing could be made.
    """

    read: int = 0
    new: int = 0
    duplicates: int = 0
    set_aside: int = 0
    portions: int = 0
    refused: tuple[str, ...] = ()
    lag: int | None = None
    seconds: float = 0.0


class KeyNeeded(Invalid):
    """A topic is to be ingested, and nothing tells a message that comes again from a new one."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source
        super().__init__(
            f"nothing is known that tells the rows of dataset {name!r} apart, and topics may bring a message again; "
            "name the columns that do: --key COLUMN[,COLUMN…]"
        )


class _Tally:
    """Counts what is done, and tells it."""

    def __init__(self, watch: Callable[[IngestCounts], None]) -> None:
        self.counts, self._watch, self._began = IngestCounts(), watch, elapsed()

    def took(self, taken: Taken, misfits: Sequence[Misfit], *, lag: int | None) -> None:
        before = self.counts
        self.counts = IngestCounts(
            read=before.read + taken.new + taken.duplicates + len(misfits), new=before.new + taken.new,
            duplicates=before.duplicates + taken.duplicates, set_aside=before.set_aside + len(misfits), portions=before.portions + 1,
            refused=before.refused, lag=lag, seconds=elapsed() - self._began,
        )  # fmt: skip
        self._watch(self.counts)


def ingest(
    ws: Workspace, request: IngestRequest, *, stopping: Callable[[], bool] = lambda: False,
    watch: Callable[[IngestCounts], None] = lambda _: None,
) -> IngestCounts:  # fmt: skip
    """Take rows as they come until told to stop. What was begun is finished before this returns; a kill loses and doubles nothing.

    Raises KeyNeeded, KeySet, Invalid, StreamUnavailable, Conflict.
    """
    ws.require("datasets.write", request.dataset)
    if request.key:
        set_key(ws, request.dataset, request.key)
    if request.source.partition(":")[0] not in STREAMS or ":" not in request.source:
        return _from_folder(ws, request, stopping, watch)
    if read_key(ws, request.dataset) is None:
        raise KeyNeeded(request.dataset, request.source)
    flow = open_flow(request.source, None, group=request.group or f"ingest-{request.dataset}", idle_s=request.claim_after_s)
    try:
        return _from_stream(ws, request, flow, stopping, watch)
    finally:
        flow.close()


def _from_stream(
    ws: Workspace, request: IngestRequest, flow: Flow, stopping: Callable[[], bool], watch: Callable[[IngestCounts], None]
) -> IngestCounts:
    tally = _Tally(watch)
    last, looked, lag = elapsed(), -LAG_S, None
    while not stopping():
        messages = flow.read(request.rows, wait_s=WAIT_S)
        if not messages:
            if request.once and _drained(flow, request, idle_s=elapsed() - last):
                break
            continue
        last = elapsed()
        # Rows first, then off the topic: killed in between, they come again and are known by their keys.
        taken, misfits = arrive(ws, request.dataset, [read_record(message.data) for message in messages], on_bad="return")
        flow.settle(_outcomes(messages, misfits))
        if elapsed() - looked >= LAG_S:  # to ask takes a system its time
            lag, looked = flow.lag(), elapsed()
        tally.took(taken, misfits, lag=lag)
        if not request.once and len(messages) < request.rows:
            wait_until(stopping, timeout_s=request.every_s - (elapsed() - last), every_s=LOOK_S)
    return replace(tally.counts, lag=flow.lag())


def _drained(flow: Flow, request: IngestRequest, *, idle_s: float) -> bool:
    """Return whether nothing is left, or nothing comes: what a dead consumer had does when it has been silent for long enough."""
    lag = flow.lag()
    return lag == 0 or idle_s > DRAINED_S + (request.claim_after_s if lag else 0.0)


def _outcomes(messages: Sequence[Message], misfits: Sequence[Misfit]) -> list[Outcome]:
    bad = {misfit.row: misfit.reason for misfit in misfits}
    return [
        refused(message, bad[number]) if number in bad else Outcome(message=message, key=message.key, data=b"")
        for number, message in enumerate(messages)
    ]


def _from_folder(
    ws: Workspace, request: IngestRequest, stopping: Callable[[], bool], watch: Callable[[IngestCounts], None]
) -> IngestCounts:
    folder = Folder(ws, request.dataset, Path(request.source), rows=request.rows)
    tally = _Tally(watch)
    while True:
        began = elapsed()
        for taken, misfits in folder.take():
            tally.took(taken, misfits, lag=folder.waiting)
            if stopping():
                break
        if stopping() or (request.once and not folder.growing):
            break
        wait_until(stopping, timeout_s=WAIT_S if request.once else request.every_s - (elapsed() - began), every_s=LOOK_S)
    return replace(tally.counts, refused=tuple(folder.refused), lag=folder.waiting)
