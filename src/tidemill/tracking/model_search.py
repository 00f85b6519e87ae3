"""Searches over logged models: by attributes, params, tags, and metrics on certain datasets."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, case, or_, select

from tidemill.catalog.conditions import compare_metric, compare_number, compare_text, refuse_key
from tidemill.core.errors import Invalid
from tidemill.core.filters import Comparison, FilterRefused, parse_filter
from tidemill.core.pages import Page, question, read_token, token_after
from tidemill.core.values import Value, replace
from tidemill.govern.workspace import Workspace
from tidemill.tracking.logged_models import LOGGED_MODELS, METRICS, PARAMS, TAGS, LoggedModel, fetch_many

_ENTITIES = {
    **dict.fromkeys(("attribute", "attributes", "attr"), "attribute"), **dict.fromkeys(("metric", "metrics"), "metric"),
    **dict.fromkeys(("param", "params"), "param"), **dict.fromkeys(("tag", "tags"), "tag"),
}  # fmt: skip
_MODEL = LOGGED_MODELS.c
_TEXTS = {
    "model_id": _MODEL.id,
    "name": _MODEL.name,
    "status": _MODEL.status,
    "model_type": _MODEL.model_type,
    "source_run_id": _MODEL.source_run,
}
_NUMBERS = {
    "creation_timestamp_ms": _MODEL.created_at,
    "last_updated_timestamp_ms": _MODEL.updated_at,
    "experiment_id": _MODEL.experiment_id,
}
_COLUMNS = {**_TEXTS, **_NUMBERS}
_ALIASES = {"creation_time": "creation_timestamp_ms", "creation_timestamp": "creation_timestamp_ms",
            "last_updated_timestamp": "last_updated_timestamp_ms", "id": "model_id"}  # fmt: skip


class Measured(Value, frozen=True, kw_only=True):
    """A dataset on which models were measured: any digest when none is given."""

    dataset: str
    digest: str = ""


class ModelOrder(Value, frozen=True, kw_only=True):
    """One sort key: an attribute, or `metrics.NAME`, as last measured (on a dataset, when one is named)."""

    name: str
    ascending: bool = True
    dataset: str = ""
    digest: str = ""


def search_logged_models(
    ws: Workspace,
    experiments: Sequence[int],
    *,
    filter: str = "",  # noqa: A002 (the word that every client of MLflow knows)
    datasets: Sequence[Measured] = (),
    order_by: Sequence[ModelOrder] = (),
    limit: int = 50,
    page_token: str | None = None,
) -> Page[LoggedModel]:
    """Return logged models in use, newest first unless told otherwise. With datasets, metrics count that were measured on one of these.

    Raises FilterRefused, TokenRefused.
    """
    ws.require("tracking.read")
    asked = [[order.name, order.ascending, order.dataset, order.digest] for order in order_by]
    scope = question("logged models", ws.project, sorted(experiments), filter, [[d.dataset, d.digest] for d in datasets], asked)
    start = int(read_token(page_token, scope)[0]) if page_token else 0
    conditions = parse_filter(filter, entities=_ENTITIES, default="attribute")
    where = [_condition(filter, item, datasets) for item in conditions]
    if datasets and not any(item.entity == "metric" for item in conditions):
        where.append(_MODEL.id.in_(_measured(ws.project, datasets)))
    query = select(_MODEL.id).where(
        _MODEL.project == ws.project, _MODEL.experiment_id.in_(experiments), _MODEL.deleted_at.is_(None), *where
    )
    query = _ordered(query, order_by).limit(limit + 1).offset(start)
    with ws.catalog.reading() as tx:
        ids = list(tx.execute(query).scalars())
        found = fetch_many(tx, ws.project, ids[:limit])
    return Page(items=tuple(found), next=token_after(scope, start + limit) if len(ids) > limit else None)


def _condition(text: str, item: Comparison, datasets: Sequence[Measured]) -> ColumnElement[bool]:
    if item.op in ("IS NULL", "IS NOT NULL"):
        raise FilterRefused(text, item.position, f"{item.op} cannot be asked of logged models")
    if item.entity == "attribute":
        return _attribute(text, replace(item, key=_ALIASES.get(item.key, item.key)))
    if item.entity == "metric":
        holds = and_(METRICS.c.key == item.key, compare_metric(METRICS.c.value, item, text), *_on(datasets))
        return _MODEL.id.in_(select(METRICS.c.model).where(METRICS.c.project == _MODEL.project, holds))
    table = PARAMS if item.entity == "param" else TAGS
    mine = select(table.c.model).where(table.c.project == _MODEL.project, table.c.key == item.key, compare_text(table.c.value, item, text))
    return _MODEL.id.in_(mine)


def _attribute(text: str, item: Comparison) -> ColumnElement[bool]:
    if item.key not in _COLUMNS:
        refuse_key(text, item, _COLUMNS)
    if item.key == "status" and isinstance(item.value, str):
        item = replace(item, value=item.value.lower().removeprefix("logged_model_").replace("upload_failed", "failed"))
    if item.key == "experiment_id" and isinstance(item.value, str) and item.value.isdecimal():
        item = replace(item, value=float(item.value))
    return compare_number(_NUMBERS[item.key], item, text) if item.key in _NUMBERS else compare_text(_TEXTS[item.key], item, text)


def _measured(project: str, datasets: Sequence[Measured]) -> Any:
    return select(METRICS.c.model).where(METRICS.c.project == project, *_on(datasets))


def _on(datasets: Sequence[Measured]) -> list[ColumnElement[bool]]:
    if not datasets:
        return []
    return [or_(*(and_(METRICS.c.dataset == d.dataset, *([METRICS.c.digest == d.digest] if d.digest else [])) for d in datasets))]


def _ordered(query: Any, order_by: Sequence[ModelOrder]) -> Any:
    keys: list[Any] = []
    names = []
    for order in order_by:
        entity, dot, key = order.name.partition(".")
        if dot and entity == "metrics":
            value: Any = _latest(order, key.strip('`"')).scalar_subquery()
        else:
            name = key if dot and _ENTITIES.get(entity) == "attribute" else order.name
            name = _ALIASES.get(name, name)
            if name not in _COLUMNS:
                raise Invalid(f"logged models cannot be ordered by {order.name!r}; expected metrics.NAME or one of {', '.join(_COLUMNS)}")
            names.append(name)
            value = _COLUMNS[name]
        keys += [case((value.is_(None), 1), else_=0), value if order.ascending else value.desc()]
    if "creation_timestamp_ms" not in names:
        keys.append(_MODEL.created_at.desc())
    return query.order_by(*keys, _MODEL.id)


def _latest(order: ModelOrder, key: str) -> Any:
    """Return the query for the value that a model's metric has last, by time, then step."""
    points = METRICS.alias()
    query = select(points.c.value).where(points.c.project == _MODEL.project, points.c.model == _MODEL.id, points.c.key == key)
    if order.dataset:
        query = query.where(points.c.dataset == order.dataset)
    if order.digest:
        query = query.where(points.c.digest == order.digest)
    return query.order_by(points.c.at.desc(), points.c.step.desc(), points.c.run).limit(1).correlate(LOGGED_MODELS)
