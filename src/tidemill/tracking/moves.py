"""What was brought from another tracking server, and under which ids it is kept here: so that bringing it again changes nothing.

Owns the table. An origin is the identity of the store that things came from, whatever way they came.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, PrimaryKeyConstraint, Table, cast, delete, func, select

from tidemill.catalog.schema import METADATA, Text, upsert
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.tracking.experiments import EXPERIMENTS
from tidemill.tracking.facts import METRICS, PARAMS, TAGS
from tidemill.tracking.files import FILES, within
from tidemill.tracking.inputs import RUN_DATASETS
from tidemill.tracking.logged_models import LOGGED_MODELS
from tidemill.tracking.points import BLOCKS, TAIL
from tidemill.tracking.runs import RUNS

MOVES = Table(
    "moves",
    METADATA,
    Column("project", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("theirs", Text, nullable=False),
    Column("ours", Text, nullable=False),
    Column("mark", Text, nullable=False),
    PrimaryKeyConstraint("project", "origin", "kind", "theirs"),
)


class Move(Value, frozen=True, kw_only=True):
    """One thing that came from an origin. mark: what it looked like when all of it had come, "" before."""

    kind: str
    theirs: str
    ours: str
    mark: str = ""


def read_moves(ws: Workspace, origin: str) -> list[Move]:
    """Return all that came from an origin."""
    ws.require("tracking.read", origin)
    query = select(MOVES.c.kind, MOVES.c.theirs, MOVES.c.ours, MOVES.c.mark).where(*_mine(ws, origin))
    with ws.catalog.reading() as tx:
        return [Move(kind=row.kind, theirs=row.theirs, ours=row.ours, mark=row.mark) for row in tx.execute(query)]


def write_moves(ws: Workspace, origin: str, moved: Sequence[Move]) -> None:
    """Remember what things are called here, and what they looked like: all at once."""
    ws.require("tracking.write", origin)
    names = ("kind", "theirs", "ours", "mark")
    with ws.catalog.transaction() as tx:
        upsert(tx, MOVES, [{"project": ws.project, "origin": origin, **{name: getattr(move, name) for name in names}} for move in moved])


def forget_moves(ws: Workspace, origin: str, moved: Sequence[Move]) -> None:
    """Forget that things came from an origin; the things themselves stay."""
    ws.require("tracking.write", origin)
    with ws.catalog.transaction() as tx:
        for move in moved:
            tx.execute(delete(MOVES).where(*_mine(ws, origin), MOVES.c.kind == move.kind, MOVES.c.theirs == move.theirs))


def removed_moves(ws: Workspace, origin: str) -> list[Move]:
    """Return the experiments, runs and logged models that came from an origin and are not even in the trash any more."""
    ws.require("tracking.read", origin)
    here = {
        "experiment": (EXPERIMENTS, cast(EXPERIMENTS.c.id, Text)),
        "run": (RUNS, RUNS.c.id),
        "logged model": (LOGGED_MODELS, LOGGED_MODELS.c.id),
    }
    found: list[Move] = []
    with ws.catalog.reading() as tx:
        for kind, (table, identifier) in here.items():
            there = select(table.c.id).where(table.c.project == MOVES.c.project, identifier == MOVES.c.ours).exists()
            query = select(MOVES.c.kind, MOVES.c.theirs, MOVES.c.ours).where(*_mine(ws, origin), MOVES.c.kind == kind, ~there)
            found += [Move(kind=row.kind, theirs=row.theirs, ours=row.ours) for row in tx.execute(query)]
    return found


def count_moved(ws: Workspace, origin: str) -> dict[str, int]:
    """Return how much of each kind is there now of what came from an origin: counted, not remembered."""
    ws.require("tracking.read", origin)
    runs = _moved(ws, origin, "run").join(RUNS, (RUNS.c.project == MOVES.c.project) & (RUNS.c.id == MOVES.c.ours))
    models = _moved(ws, origin, "logged model").join(
        LOGGED_MODELS, (LOGGED_MODELS.c.project == MOVES.c.project) & (LOGGED_MODELS.c.id == MOVES.c.ours)
    )
    # Never the other way round: what a run is called here is no number, and a database may look at it first.
    number = cast(EXPERIMENTS.c.id, Text)
    experiments = _moved(ws, origin, "experiment").join(EXPERIMENTS, (EXPERIMENTS.c.project == ws.project) & (number == MOVES.c.ours))
    of_run = cast(RUNS.c.experiment_id, Text) + "/" + RUNS.c.id
    of_model = cast(LOGGED_MODELS.c.experiment_id, Text) + "/models/" + LOGGED_MODELS.c.id
    counted = {
        "experiments": experiments,
        "runs": runs,
        "params": runs.join(PARAMS, PARAMS.c.run == RUNS.c.no),
        "tags": runs.join(TAGS, TAGS.c.run == RUNS.c.no),
        "metrics": runs.join(METRICS, METRICS.c.run == RUNS.c.no),
        "dataset inputs": runs.join(RUN_DATASETS, RUN_DATASETS.c.run == RUNS.c.no),
        "logged models": models,
    }
    with ws.catalog.reading() as tx:
        found = {name: int(tx.execute(query.with_only_columns(func.count())).scalar_one()) for name, query in counted.items()}
        packed = (runs.join(table, table.c.run == RUNS.c.no).with_only_columns(func.sum(table.c.points)) for table in (BLOCKS, TAIL))
        found["metric points"] = sum(int(tx.execute(query).scalar_one() or 0) for query in packed)
        files = (query.join(FILES, within(ws.project, folder + "/artifacts")) for query, folder in ((runs, of_run), (models, of_model)))
        found["artifacts"] = sum(int(tx.execute(query.with_only_columns(func.count())).scalar_one()) for query in files)
    return found


def _mine(ws: Workspace, origin: str) -> tuple[Any, ...]:
    return MOVES.c.project == ws.project, MOVES.c.origin == origin


def _moved(ws: Workspace, origin: str, kind: str) -> Any:
    return select(MOVES.c.ours).select_from(MOVES).where(*_mine(ws, origin), MOVES.c.kind == kind)
