"""Searches over models and versions in MLflow's grammar, a page at a time by key: the last page costs what the first does."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, and_, func, literal_column, or_, select

from tidemill.catalog.conditions import compare_number, compare_text, refuse_key
from tidemill.catalog.schema import Moment
from tidemill.core.clock import from_micros, micros
from tidemill.core.filters import Comparison, FilterRefused, Order, parse_filter, parse_order
from tidemill.core.pages import Page, TokenRefused, question, read_token, token_after
from tidemill.core.values import replace
from tidemill.govern.workspace import Workspace
from tidemill.registry.models import MODEL_TAGS, MODELS, TAG_SHORT, RegisteredModel, models_of
from tidemill.registry.versions import MODEL_VERSIONS, VERSION_TAGS, ModelVersion, named_versions, versions_of

View = Literal["active", "deleted", "all"]
T = TypeVar("T")

ENTITIES = {
    **dict.fromkeys(("attribute", "attributes", "attr", "model", "version"), "attribute"),
    **dict.fromkeys(("tag", "tags"), "tag"),
}


class _Noun(NamedTuple):
    """What can be searched for: its attributes by name, other words for them, its table of tags, and the order nobody asked for."""

    called: str
    attributes: Mapping[str, Any]
    aliases: Mapping[str, str]
    tags: Table
    keys: tuple[tuple[Any, Any], ...]  # column of the tag table, column that it must equal
    order: tuple[str, ...]
    last: tuple[str, ...]  # what decides between equals
    deleted: ColumnElement[bool]


_MODELS = _Noun(
    called="models",
    attributes={
        "name": MODELS.c.name, "key": MODELS.c.key, "owner": MODELS.c.owner, "description": MODELS.c.description,
        "created_at": MODELS.c.created_at, "updated_at": MODELS.c.updated_at,
    },
    aliases={"creation_timestamp": "created_at", "timestamp": "updated_at", "last_updated_timestamp": "updated_at"},
    tags=MODEL_TAGS,
    keys=((MODEL_TAGS.c.project, MODELS.c.project), (MODEL_TAGS.c.model, MODELS.c.key)),
    order=("name",),
    last=("name ASC", "key ASC"),
    deleted=MODELS.c.deleted_at.is_not(None),
)  # fmt: skip
_VERSIONS = _Noun(
    called="model versions",
    attributes={
        "name": MODELS.c.name, "key": MODEL_VERSIONS.c.model, "version": MODEL_VERSIONS.c.version, "run": MODEL_VERSIONS.c.run,
        "source": MODEL_VERSIONS.c.source, "environment": MODEL_VERSIONS.c.environment, "verdict": MODEL_VERSIONS.c.verdict,
        "status": MODEL_VERSIONS.c.status, "logged_model": MODEL_VERSIONS.c.logged_model, "actor": MODEL_VERSIONS.c.actor,
        "created_at": MODEL_VERSIONS.c.created_at, "updated_at": MODEL_VERSIONS.c.updated_at,
    },
    aliases={
        "version_number": "version", "run_id": "run", "source_path": "source", "model_id": "logged_model", "checks": "verdict",
        "creation_timestamp": "created_at", "last_updated_timestamp": "updated_at", "user_id": "actor",
    },
    tags=VERSION_TAGS,
    keys=(
        (VERSION_TAGS.c.project, MODEL_VERSIONS.c.project), (VERSION_TAGS.c.model, MODEL_VERSIONS.c.model),
        (VERSION_TAGS.c.version, MODEL_VERSIONS.c.version),
    ),
    order=("updated_at DESC",),
    last=("name ASC", "version DESC", "key ASC"),
    deleted=or_(MODEL_VERSIONS.c.deleted_at.is_not(None), MODELS.c.deleted_at.is_not(None)),
)  # fmt: skip


def search_models(
    ws: Workspace,
    *,
    filter: str = "",  # noqa: A002 (the word that every client of MLflow knows)
    order_by: Sequence[str] = (),
    view: View = "active",
    without: tuple[str, str] | None = None,
    limit: int = 100,
    page_token: str | None = None,
) -> Page[RegisteredModel]:
    """Return the models that a filter picks, by name unless told otherwise. Raises FilterRefused, TokenRefused.

    without: a tag and a value of it that hide a model, unless the filter asks for those that have it.
    """
    ws.require("registry.read")
    query = select(MODELS).where(MODELS.c.project == ws.project)
    return _page(ws, _MODELS, query, models_of, (filter, tuple(order_by), view, without), limit, page_token)


def search_versions(
    ws: Workspace,
    *,
    filter: str = "",  # noqa: A002
    order_by: Sequence[str] = (),
    view: View = "active",
    without: tuple[str, str] | None = None,
    limit: int = 100,
    page_token: str | None = None,
) -> Page[ModelVersion]:
    """Return the versions that a filter picks, the last changed first unless told otherwise. Raises FilterRefused, TokenRefused."""
    ws.require("registry.read")
    query = named_versions().where(MODEL_VERSIONS.c.project == ws.project)
    return _page(ws, _VERSIONS, query, versions_of, (filter, tuple(order_by), view, without), limit, page_token)


def _page(
    ws: Workspace,
    noun: _Noun,
    query: Any,
    values_of: Callable[[Connection, str, Iterable[Any]], list[T]],
    asked: tuple[str, Sequence[str], View, tuple[str, str] | None],
    limit: int,
    page_token: str | None,
) -> Page[T]:
    text, order_by, view, without = asked
    scope = question(noun.called, ws.project, text, list(order_by), view, without)
    orders = _orders(noun, order_by)
    query = query.where(*_conditions(noun, text, without), *_view(noun, view))
    if page_token:
        query = query.where(_behind(noun, orders, read_token(page_token, scope)))
    columns = [noun.attributes[order.key] for order in orders]
    query = query.order_by(*(column.asc() if order.ascending else column.desc() for column, order in zip(columns, orders, strict=True)))
    with ws.catalog.reading() as tx:
        rows = tx.execute(query.add_columns(*(column.label(f"at_{n}") for n, column in enumerate(columns))).limit(limit + 1)).all()
        items = values_of(tx, ws.project, rows[:limit])
    more = len(rows) > limit
    position = [_plain(getattr(rows[limit - 1], f"at_{number}")) for number in range(len(columns))] if more else []
    return Page(items=tuple(items), next=token_after(scope, *position) if more else None)


def _view(noun: _Noun, view: View) -> list[ColumnElement[bool]]:
    return [] if view == "all" else [noun.deleted if view == "deleted" else ~noun.deleted]


def _conditions(noun: _Noun, text: str, without: tuple[str, str] | None) -> list[ColumnElement[bool]]:
    items = parse_filter(text, entities=ENTITIES, default="attribute")
    if without is None or any(_asks_for(item, *without) for item in items):
        return [_clause(noun, item, text) for item in items]
    # What is shown lacks the tag: to ask for another value of it is to ask for what is shown.
    others = [item for item in items if (item.entity, item.key) != ("tag", without[0])]
    hidden = _has_tag(noun, noun.tags.c.tag == without[0], noun.tags.c.value == without[1])
    return [*(_clause(noun, item, text) for item in others), ~hidden]


def _asks_for(item: Comparison, tag: str, value: str) -> bool:
    """Return whether a condition picks what has this value of a tag."""
    if (item.entity, item.key) != ("tag", tag) or not isinstance(item.value, str):
        return False
    same = item.value.lower() == value
    return same if item.op == "=" else not same if item.op == "!=" else False


def _clause(noun: _Noun, item: Comparison, text: str) -> ColumnElement[bool]:
    if item.entity == "tag":
        if item.op in ("IS NULL", "IS NOT NULL"):
            there = _has_tag(noun, noun.tags.c.tag == item.key)
            return there if item.op == "IS NOT NULL" else ~there
        wanted = [noun.tags.c.tag == item.key, compare_text(noun.tags.c.value, item, text)]
        if item.op == "=" and isinstance(item.value, str) and len(item.value) <= TAG_SHORT:
            wanted.append(func.length(noun.tags.c.value) <= literal_column(str(TAG_SHORT)))  # so that the index of short values serves
        return _has_tag(noun, *wanted)
    item = replace(item, key=noun.aliases.get(item.key, item.key))
    if item.key not in noun.attributes:
        refuse_key(text, item, [*noun.attributes, *noun.aliases])
    column = noun.attributes[item.key]
    if item.op in ("IS NULL", "IS NOT NULL"):
        empty = or_(column.is_(None), column == "") if _is_text(column) else column.is_(None)
        return empty if item.op == "IS NULL" else ~empty
    if _is_text(column):
        return compare_text(column, item, text)
    if isinstance(item.value, str) and item.value.isdecimal():
        item = replace(item, value=float(item.value))
    return compare_number(column, item, text)


def _has_tag(noun: _Noun, *wanted: ColumnElement[bool]) -> ColumnElement[bool]:
    return select(noun.tags.c.tag).where(*(mine == theirs for mine, theirs in noun.keys), *wanted).exists()


def _orders(noun: _Noun, clauses: Sequence[str]) -> list[Order]:
    asked = [
        replace(order, key=noun.aliases.get(order.key, order.key)) for order in parse_order(clauses, entities=ENTITIES, default="attribute")
    ]
    for number, (clause, order) in enumerate(zip(clauses, asked, strict=True)):
        if order.entity != "attribute" or order.key not in noun.attributes or order.key in ("run", "logged_model"):
            raise FilterRefused(clause, 0, f"{noun.called} cannot be ordered by {order.key!r}", what="order")
        if order.key in [other.key for other in asked[:number]]:
            raise FilterRefused(clause, 0, f"`order_by` contains duplicate fields: {order.key!r} stands there twice", what="order")
    found = asked or list(parse_order(noun.order, entities=ENTITIES, default="attribute"))
    named = {order.key for order in found}
    return [*found, *(last for last in parse_order(noun.last, entities=ENTITIES, default="attribute") if last.key not in named)]


def _behind(noun: _Noun, orders: Sequence[Order], position: Sequence[Any]) -> ColumnElement[bool]:
    """Return the clause for what comes behind a position: greater in one key, equal in all before it."""
    if len(position) != len(orders):
        raise TokenRefused
    columns = [noun.attributes[order.key] for order in orders]
    values = [from_micros(value) if isinstance(column.type, Moment) else value for column, value in zip(columns, position, strict=True)]
    ways = []
    for number, order in enumerate(orders):
        same = [column == value for column, value in zip(columns[:number], values[:number], strict=True)]
        column, value = columns[number], values[number]
        ways.append(and_(*same, column > value if order.ascending else column < value))
    return or_(*ways)


def _is_text(column: Any) -> bool:
    return column.type.python_type is str


def _plain(value: Any) -> Any:
    return micros(value) if isinstance(value, datetime) else value
