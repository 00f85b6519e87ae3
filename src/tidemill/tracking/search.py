"""Searches over runs: a filter and an order become one statement that walks an index, and a page is a place in that walk.

Runs come in the order asked for, then the newest first, then by id. A run without the value that is ordered by comes last, one
whose metric is NaN just before those.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select, union_all

from tidemill.catalog.conditions import compare_metric, compare_number, compare_text, refuse_key
from tidemill.core.clock import from_micros, micros
from tidemill.core.errors import Invalid
from tidemill.core.filters import Comparison, FilterRefused, Order, parse_filter, parse_order
from tidemill.core.pages import Page, question, read_token, token_after
from tidemill.core.values import replace
from tidemill.govern.workspace import Workspace
from tidemill.tracking.experiments import View
from tidemill.tracking.facts import METRICS, PARAMS, TAGS, long, short
from tidemill.tracking.inputs import INPUT_DATASETS, RUN_DATASETS
from tidemill.tracking.runs import RUNS, Details, Run, RunKind, read_many

FEW = 4000  # matches of one condition up to which it is cheaper to sort them than to walk an index in order
WALK = 5000  # steps of a walk after which it is cheaper to gather all matches and sort them

NAME, USER = "mlflow.runName", "mlflow.user"  # tags by which MLflow's clients know what runs have of their own
_EXISTENCE = ("IS NULL", "IS NOT NULL")

ENTITIES = {
    **dict.fromkeys(("attribute", "attributes", "attr", "run"), "attribute"),
    **dict.fromkeys(("metric", "metrics"), "metric"),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), "param"),
    **dict.fromkeys(("tag", "tags"), "tag"),
    **dict.fromkeys(("dataset", "datasets"), "dataset"),
}
# Who a run is by: whom its client named, else who started it here.
_USER = func.coalesce(select(TAGS.c.value).where(TAGS.c.run == RUNS.c.no, TAGS.c.key == USER).scalar_subquery(), RUNS.c.actor)
_TEXTS = {
    "run_id": RUNS.c.id, "run_name": RUNS.c.name, "status": RUNS.c.status, "user_id": _USER, "kind": RUNS.c.kind,
    "parent": RUNS.c.parent,
}  # fmt: skip
_TIMES = {"start_time": RUNS.c.started_at, "end_time": RUNS.c.ended_at}
_ATTRIBUTES = {**_TEXTS, **_TIMES}
_ALIASES = {
    **dict.fromkeys(("name", "run name", "Run name", "Run Name"), "run_name"), **dict.fromkeys(("id", "run_uuid"), "run_id"),
    **dict.fromkeys(("created", "Created", "started_at"), "start_time"), "ended_at": "end_time", "actor": "user_id",
}  # fmt: skip
_DATASETS = {"name": INPUT_DATASETS.c.name, "digest": INPUT_DATASETS.c.digest, "context": RUN_DATASETS.c.context}
_TABLES = {"metric": METRICS, "param": PARAMS, "tag": TAGS}


class _Key(NamedTuple):
    """One column of the order that a search goes by."""

    column: Any
    ascending: bool


class _Asked(NamedTuple):
    """A search, understood."""

    project: str
    experiments: tuple[int, ...]
    text: str
    conditions: tuple[Comparison, ...]
    orders: tuple[Order, ...]
    view: View
    kinds: tuple[RunKind, ...] = ()


def search_runs(
    ws: Workspace,
    experiments: Sequence[int],
    *,
    filter: str = "",  # noqa: A002 (the word that every client of MLflow knows)
    order_by: Sequence[str] = (),
    kinds: Sequence[RunKind] = (),
    view: View = "active",
    limit: int = 100,
    page_token: str | None = None,
    details: Details = "all",
    metrics: int | None = None,
) -> Page[Run]:
    """Return the runs of experiments that a filter picks, in an order. kinds: of these alone; metrics: at most so many of each run.

    Raises FilterRefused, TokenRefused.
    """
    ws.require("tracking.read")
    scope = question("runs", ws.project, sorted(experiments), filter, list(order_by), view, list(kinds))
    asked = _Asked(ws.project, tuple(experiments), filter, _conditions(filter), _orders(order_by), view, tuple(kinds))
    position = read_token(page_token, scope) if page_token else None
    with ws.catalog.reading() as tx:
        found = _find(tx, asked, limit + 1, position)
        runs = read_many(tx, ws.project, [row[0] for row in found[:limit]], details=details, metrics=metrics)
    return Page(items=tuple(runs), next=token_after(scope, *found[limit - 1][1]) if len(found) > limit else None)


def count_runs(ws: Workspace, experiments: Sequence[int]) -> dict[int, int]:
    """Return how many runs in use each experiment has."""
    ws.require("tracking.read")
    query = select(RUNS.c.experiment_id, func.count()).where(*_scope(_Asked(ws.project, tuple(experiments), "", (), (), "active")))
    with ws.catalog.reading() as tx:
        found = {row[0]: row[1] for row in tx.execute(query.group_by(RUNS.c.experiment_id))}
    return {experiment: found.get(experiment, 0) for experiment in experiments}


def _find(tx: Connection, asked: _Asked, count: int, position: list[Any] | None) -> list[tuple[str, list[Any]]]:
    """Return (id, position) of the runs behind a position."""
    few = _fewest(tx, asked)
    if few is not None:
        return _sorted(tx, asked, count, position, RUNS.c.no.in_(few), *_members(asked, walking=True))
    if not asked.orders:
        return _walked_by_start(tx, asked, count, position)
    if len(asked.orders) > 1 or asked.orders[0].entity != "metric":
        return _sorted(tx, asked, count, position, *_members(asked, walking=False))
    found = _walked_by_metric(tx, asked, count, position) if position is None or position[0] == 0 else []
    if len(found) < count:
        rest = _keys(asked)[0].column > 0
        found += _sorted(tx, asked, count - len(found), None if found else position, rest, *_members(asked, walking=False))
    return found


def _sorted(
    tx: Connection, asked: _Asked, count: int, position: list[Any] | None, *clauses: ColumnElement[bool]
) -> list[tuple[str, list[Any]]]:
    """Look at all runs that the clauses leave."""
    keys = _keys(asked)
    tables: Any = RUNS
    for number, order in enumerate(asked.orders):
        if order.entity != "attribute":
            joined = _ordering(order, number)
            tables = tables.outerjoin(joined, (joined.c.run == RUNS.c.no) & (joined.c.key == order.key))
    query = select(RUNS.c.id, *(key.column for key in keys)).select_from(tables).where(*_scope(asked), *clauses)
    return _page(tx, query, keys, count, position)


def _walked_by_start(tx: Connection, asked: _Asked, count: int, position: list[Any] | None) -> list[tuple[str, list[Any]]]:
    """Look at one run after the other, newest first, for a while; should that not fill the page, at all runs that may match."""
    behind = [RUNS.c.started_at <= from_micros(position[0])] if position else []
    walk = select(RUNS.c.started_at).where(*_scope(asked), *behind).order_by(RUNS.c.started_at.desc())
    edge = tx.execute(walk.limit(1).offset(WALK)).scalar_one_or_none() if asked.conditions else None
    near = [] if edge is None else [RUNS.c.started_at > edge]
    found = _sorted(tx, asked, count, position, *near, *_members(asked, walking=True))
    if len(found) < count and near:
        return _sorted(tx, asked, count, position, *_members(asked, walking=False))
    return found


def _walked_by_metric(tx: Connection, asked: _Asked, count: int, position: list[Any] | None) -> list[tuple[str, list[Any]]]:
    """Walk the values of a metric in their order, and look at each run that comes by; for a while, then as _walked_by_start does."""
    order = asked.orders[0]
    values = _ordering(order, 0)
    keys = _keys(asked)
    same = [_holds(values, item, asked.text) for item in asked.conditions if (item.entity, item.key) == ("metric", order.key)]
    walk = [values.c.experiment_id.in_(asked.experiments), values.c.key == order.key, values.c.value.is_not(None), *same]
    if position is not None:
        walk.append(values.c.value >= position[1] if order.ascending else values.c.value <= position[1])
    steps = select(values.c.value).where(*walk).order_by(values.c.value if order.ascending else values.c.value.desc())
    edge = tx.execute(steps.limit(1).offset(WALK)).scalar_one_or_none() if asked.conditions else None
    near = [] if edge is None else [values.c.value < edge if order.ascending else values.c.value > edge]
    tables = values.join(RUNS, RUNS.c.no == values.c.run)
    query = select(RUNS.c.id, *(key.column for key in keys)).select_from(tables).where(*walk, *_scope(asked))
    found = _page(tx, query.where(*near, *_members(asked, walking=True)), keys, count, position, first=1)
    if len(found) < count and near:
        return _page(tx, query.where(*_members(asked, walking=False)), keys, count, position, first=1)
    return found


def _page(
    tx: Connection, query: Select[Any], keys: Sequence[_Key], count: int, position: list[Any] | None, *, first: int = 0
) -> list[tuple[str, list[Any]]]:
    """Return what a query finds behind a position. first: keys before that one are the same for all that it finds."""
    if position is not None:
        if len(position) != len(keys):
            raise Invalid("the page token does not fit this search; start again from the first page")
        query = query.where(_behind(keys[first:], position[first:]))
    query = query.order_by(*(key.column if key.ascending else key.column.desc() for key in keys[first:])).limit(count)
    return [(row[0], [micros(value) if hasattr(value, "tzinfo") else value for value in row[1:]]) for row in tx.execute(query)]


def _behind(keys: Sequence[_Key], position: Sequence[Any]) -> ColumnElement[bool]:
    clauses: list[ColumnElement[bool]] = []
    same: list[ColumnElement[bool]] = []
    for key, value in zip(keys, position, strict=True):
        if value is None:  # whatever shares its rank has no value either
            same.append(key.column.is_(None))
            continue
        there = from_micros(value) if _is_moment(key.column) else value
        clauses.append(and_(*same, key.column > there if key.ascending else key.column < there))
        same.append(key.column == there)
    head, begin = keys[0], position[0]
    if begin is None or len(clauses) == 1:
        return or_(*clauses)
    there = from_micros(begin) if _is_moment(head.column) else begin  # said once more, for an index to begin at
    return and_(head.column >= there if head.ascending else head.column <= there, or_(*clauses))


def _keys(asked: _Asked) -> list[_Key]:
    """Return the columns that order a search: a rank and a value for each key asked for, then start and id."""
    keys = []
    for number, order in enumerate(asked.orders):
        if order.entity == "attribute":
            value: Any = _ATTRIBUTES[order.key]
            rank = case((value.is_(None), 1), else_=0)
        else:
            table = _ordering(order, number)
            value = table.c.value
            rank = case((table.c.run.is_(None), 2), (value.is_(None), 1), else_=0)
        keys += [_Key(rank, True), _Key(value, order.ascending)]
    if not any(order.entity == "attribute" and order.key == "start_time" for order in asked.orders):
        keys.append(_Key(RUNS.c.started_at, False))
    return [*keys, _Key(RUNS.c.id, True)]


def _ordering(order: Order, number: int) -> Any:
    """Return the table that an order reads, under a name of its own: the same one each time it is asked for."""
    return _ALIASED[order.entity][number]


_MOST_ORDERS = 8
_ALIASED = {entity: [table.alias(f"ordered_{entity}_{number}") for number in range(_MOST_ORDERS)] for entity, table in _TABLES.items()}


def _scope(asked: _Asked) -> list[ColumnElement[bool]]:
    where = [RUNS.c.project == asked.project, RUNS.c.experiment_id.in_(asked.experiments)]
    if asked.view != "all":
        where.append(RUNS.c.deleted_at.is_(None) if asked.view == "active" else RUNS.c.deleted_at.is_not(None))
    if asked.kinds:
        where.append(RUNS.c.kind.in_(asked.kinds))
    return where


def _fewest(tx: Connection, asked: _Asked) -> list[int] | None:
    """Return the runs that the narrowest conditions leave, None while all leave more than a few."""
    fewest: list[int] | None = None
    for (entity, key), items in _by_key(asked).items():
        found = list(tx.execute(_matching(asked, entity, key, items).limit(FEW + 1)).scalars())
        if len(found) <= FEW and (fewest is None or len(found) < len(fewest)):
            fewest = found
    return fewest


def _members(asked: _Asked, *, walking: bool) -> list[ColumnElement[bool]]:
    """Return the clauses of all conditions. walking: asked of one run after the other; else of all at once."""
    clauses = []
    for item in asked.conditions:
        if item.key in _TIMES and item.entity == "attribute":
            clauses.append(compare_number(_TIMES[item.key], item, asked.text))
        elif item.entity == "attribute":
            clauses.append(compare_text(_TEXTS[item.key], item, asked.text))
        elif item.entity == "dataset":
            clauses.append(_read(compare_text(_DATASETS[item.key], item, asked.text)))
        elif item.op in _EXISTENCE:
            clauses.append(_there(item))
    for (entity, key), items in _by_key(asked).items():
        table = _TABLES[entity]
        if walking:
            holds = [_holds(table, item, asked.text) for item in items]
            clauses.append(select(table.c.run).where(table.c.run == RUNS.c.no, table.c.key == key, *holds).exists())
        else:
            clauses.append(RUNS.c.no.in_(_matching(asked, entity, key, items)))
    return clauses


def _by_key(asked: _Asked) -> dict[tuple[str, str], list[Comparison]]:
    """Return the conditions on what runs have under keys, those on one key together."""
    found: dict[tuple[str, str], list[Comparison]] = {}
    for item in asked.conditions:
        if item.entity in _TABLES and item.op not in _EXISTENCE:
            found.setdefault((item.entity, item.key), []).append(item)
    return found


def _matching(asked: _Asked, entity: str, key: str, items: Sequence[Comparison]) -> Any:
    """Return the query for the runs of the experiments, deleted or not, whose value under a key meets conditions: one range of an index."""
    table = _TABLES[entity]
    holds = [_holds(table, item, asked.text) for item in items]
    query = select(table.c.run).where(table.c.experiment_id.in_(asked.experiments), table.c.key == key, *holds)
    if table is METRICS:
        return query
    return union_all(query.where(short(table.c.value)), query.where(long(table.c.value)))


def _read(holds: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the clause for the runs that read a dataset for which something holds."""
    used = RUN_DATASETS.join(INPUT_DATASETS, INPUT_DATASETS.c.no == RUN_DATASETS.c.dataset)
    return RUNS.c.no.in_(select(RUN_DATASETS.c.run).select_from(used).where(holds))


def _there(item: Comparison) -> ColumnElement[bool]:
    """Return the clause for the runs that have something under a key, or nothing."""
    table = _TABLES[item.entity]
    there = select(table.c.run).where(table.c.run == RUNS.c.no, table.c.key == item.key).exists()
    return there if item.op == "IS NOT NULL" else ~there


def _holds(table: Any, item: Comparison, text: str) -> ColumnElement[bool]:
    return (compare_metric if item.entity == "metric" else compare_text)(table.c.value, item, text)


def _is_moment(column: Any) -> bool:
    return column is RUNS.c.started_at or column is RUNS.c.ended_at


def _conditions(text: str) -> tuple[Comparison, ...]:
    found = []
    for item in parse_filter(text, entities=ENTITIES, default="attribute"):
        if (item.entity, item.key) == ("tag", NAME):
            item = replace(item, entity="attribute", key="run_name")
        if item.entity == "attribute":
            item = replace(item, key=_ALIASES.get(item.key, item.key))
            if item.key not in _ATTRIBUTES:
                refuse_key(text, item, _ATTRIBUTES)
            if item.key == "status" and isinstance(item.value, str):
                item = replace(item, value=item.value.lower())
        elif item.entity == "dataset" and item.key not in _DATASETS:
            raise FilterRefused(text, item.position, f"datasets have no {item.key!r}; expected one of {', '.join(_DATASETS)}")
        if item.op in _EXISTENCE and (item.entity not in ("param", "tag")):
            raise FilterRefused(text, item.position, f"{item.op} cannot be asked of a {item.entity}")
        found.append(item)
    return tuple(found)


def _orders(clauses: Sequence[str]) -> tuple[Order, ...]:
    found: list[Order] = []
    for clause, order in zip(clauses, parse_order(clauses, entities=ENTITIES, default="attribute"), strict=True):
        if (order.entity, order.key) == ("tag", NAME):
            order = replace(order, entity="attribute", key="run_name")
        if order.entity == "attribute":
            order = replace(order, key=_ALIASES.get(order.key, order.key))
        if (order.entity == "attribute" and order.key not in _ATTRIBUTES) or order.entity == "dataset":
            raise FilterRefused(clause, 0, f"runs cannot be ordered by {order.key!r}", what="order")
        if any((order.entity, order.key) == (other.entity, other.key) for other in found):
            raise FilterRefused(clause, 0, f"`order_by` contains duplicate fields: {order.key!r} stands there twice", what="order")
        found.append(order)
    if len(found) > _MOST_ORDERS:
        raise Invalid(f"runs can be ordered by at most {_MOST_ORDERS} keys, got {len(found)}")
    return tuple(found)
