"""Searches over traces: by attributes, tags, metadata, spans, and what was said of them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger as Number
from sqlalchemy import ColumnElement, Float, and_, case, cast, func, or_, select, type_coerce

from tidemill.catalog.conditions import compare_number, compare_text, refuse_key
from tidemill.core.codec import encode_text
from tidemill.core.errors import Invalid
from tidemill.core.filters import Comparison, FilterRefused, parse_filter, parse_order
from tidemill.core.pages import Page, question, read_token, token_after
from tidemill.core.values import replace
from tidemill.govern.workspace import Workspace
from tidemill.tracking.assessments import ASSESSMENTS
from tidemill.tracking.traces import FACTS, SPANS, TAGS, TRACE_RUNS, TRACES, Trace, fetch_traces

SOURCE_RUN = "mlflow.sourceRun"
PROMPTS = "mlflow.linkedPrompts"
_ENTITIES = {
    **dict.fromkeys(("attribute", "attributes", "attr", "trace"), "attribute"), **dict.fromkeys(("tag", "tags"), "tag"),
    **dict.fromkeys(("metadata", "request_metadata"), "metadata"),
    "span": "span", "feedback": "feedback", "expectation": "expectation", "issue": "issue",
}  # fmt: skip
_TRACE = TRACES.c
# In milliseconds: when it began plus how long it took.
_ENDED = type_coerce(_TRACE.requested_at, Number) / 1000 + _TRACE.duration_ms
_NUMBERS: dict[str, Any] = {"timestamp_ms": _TRACE.requested_at, "execution_time_ms": _TRACE.duration_ms, "end_time_ms": _ENDED}
_TEXTS = {"request_id": _TRACE.id, "status": _TRACE.state, "client_request_id": _TRACE.client_request_id, "name": _TRACE.name}
_ATTRIBUTES = (*_NUMBERS, *_TEXTS, "run_id", "prompt", "text")
_ALIASES = {"timestamp": "timestamp_ms", "execution_time": "execution_time_ms", "end_time": "end_time_ms", "trace_id": "request_id",
            "state": "status"}  # fmt: skip
_SPAN_TEXTS = {"name": SPANS.c.name, "type": SPANS.c.type, "status": SPANS.c.status, "content": SPANS.c.content}


def search_traces(
    ws: Workspace,
    experiments: Sequence[int],
    *,
    filter: str = "",  # noqa: A002 (the word that every client of MLflow knows)
    order_by: Sequence[str] = (),
    limit: int = 100,
    page_token: str | None = None,
) -> Page[Trace]:
    """Return traces of experiments, newest first unless told otherwise. Raises FilterRefused, TokenRefused."""
    ws.require("tracking.read")
    scope = question("traces", ws.project, sorted(experiments), filter, list(order_by))
    start = int(read_token(page_token, scope)[0]) if page_token else 0
    where = [_condition(filter, item) for item in parse_filter(filter, entities=_ENTITIES, default="attribute")]
    query = select(_TRACE.id).where(_TRACE.project == ws.project, _TRACE.experiment_id.in_(experiments), *where)
    query = query.order_by(*_orders(order_by)).limit(limit + 1).offset(start)
    with ws.catalog.reading() as tx:
        ids = list(tx.execute(query).scalars())
        found = fetch_traces(tx, ws.project, ids[:limit])
    return Page(items=tuple(found), next=token_after(scope, start + limit) if len(ids) > limit else None)


def _condition(text: str, item: Comparison) -> ColumnElement[bool]:
    if item.entity == "attribute":
        return _attribute(text, replace(item, key=_ALIASES.get(item.key, item.key)))
    if item.entity == "span":
        return _span(text, item)
    if item.entity in ("feedback", "expectation"):
        return _assessed(text, item)
    if item.entity == "issue":
        raise FilterRefused(text, item.position, "traces have no issues here")
    return _texts(text, item, TAGS if item.entity == "tag" else FACTS)


def _attribute(text: str, item: Comparison) -> ColumnElement[bool]:
    if item.key == "run_id":
        linked = select(TRACE_RUNS.c.trace).where(TRACE_RUNS.c.project == _TRACE.project, compare_text(TRACE_RUNS.c.run, item, text))
        return or_(_TRACE.id.in_(linked), _texts(text, replace(item, key=SOURCE_RUN), FACTS))
    if item.key == "prompt":
        return _texts(text, replace(item, key=PROMPTS), TAGS)
    if item.key == "text":
        return _span(text, replace(item, key="content"))
    if item.key not in _ATTRIBUTES:
        refuse_key(text, item, _ATTRIBUTES)
    if item.key in _NUMBERS:
        return compare_number(_NUMBERS[item.key], item, text)
    if item.key == "status":
        item = _lower(item)
    if item.op in ("IS NULL", "IS NOT NULL"):
        return _TEXTS[item.key].is_(None) if item.op == "IS NULL" else _TEXTS[item.key].is_not(None)
    return compare_text(_TEXTS[item.key], item, text)


def _texts(text: str, item: Comparison, table: Any) -> ColumnElement[bool]:
    mine = select(table.c.trace).where(table.c.project == _TRACE.project, table.c.key == item.key)
    if item.op in ("IS NULL", "IS NOT NULL"):
        return _TRACE.id.not_in(mine) if item.op == "IS NULL" else _TRACE.id.in_(mine)
    return _TRACE.id.in_(mine.where(compare_text(table.c.value, item, text)))


def _span(text: str, item: Comparison) -> ColumnElement[bool]:
    mine = select(SPANS.c.trace).where(SPANS.c.project == _TRACE.project)
    if item.key.startswith("attributes."):
        return _TRACE.id.in_(mine.where(_span_attribute(text, item)))
    if item.key not in _SPAN_TEXTS:
        raise FilterRefused(text, item.position, f"spans cannot be searched by {item.key!r}; expected one of {', '.join(_SPAN_TEXTS)}")
    if item.key == "status":
        item = _lower(item)
    return _TRACE.id.in_(mine.where(compare_text(_SPAN_TEXTS[item.key], item, text)))


def _span_attribute(text: str, item: Comparison) -> ColumnElement[bool]:
    """Return the clause for an attribute of a span: looked for in the span's JSON, where it stands as key and value."""
    key = item.key.removeprefix("attributes.").strip('"`')
    if item.op not in ("=", "LIKE", "ILIKE") or not isinstance(item.value, str):
        raise FilterRefused(text, item.position, f"a span's attribute cannot be asked for with {item.op}; expected =, LIKE or ILIKE")
    head = f'{{"key":{encode_text(key)},"value":'
    escaped = head.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    if item.op == "=":
        plain = encode_text(item.value)
        forms = (f'{head}{{"string_value":{plain}}}', f'{head}{{"int_value":{item.value}}}', f'{head}{{"bool_value":{item.value.lower()}}}')
        return or_(*(SPANS.c.content.contains(form, autoescape=True) for form in forms))
    pattern = f'%{escaped}{{%value":{item.value}%'
    column, wanted = (SPANS.c.content, pattern) if item.op == "LIKE" else (func.lower(SPANS.c.content), pattern.lower())
    return column.like(wanted, escape="\\")


def _assessed(text: str, item: Comparison) -> ColumnElement[bool]:
    """Return the clause for what was said under a name: words and numbers alike, as they stand in JSON."""
    mine = select(ASSESSMENTS.c.trace).where(
        ASSESSMENTS.c.project == _TRACE.project, ASSESSMENTS.c.kind == item.entity, ASSESSMENTS.c.name == item.key
    )
    if item.op in ("IS NULL", "IS NOT NULL"):
        return _TRACE.id.not_in(mine) if item.op == "IS NULL" else _TRACE.id.in_(mine)
    if isinstance(item.value, tuple):
        raise FilterRefused(text, item.position, f"{item.op} cannot be asked of what was said of a trace")
    said = ASSESSMENTS.c.value
    if item.op in ("LIKE", "ILIKE"):
        return _TRACE.id.in_(mine.where(compare_text(func.trim(said, '"'), item, text)))
    forms = [encode_text(item.value), str(item.value)]
    if isinstance(item.value, float) and item.value.is_integer():
        forms.append(str(int(item.value)))
    if item.op in ("=", "!="):
        same = said.in_(forms)
        return _TRACE.id.in_(mine.where(same if item.op == "=" else ~same))
    if not isinstance(item.value, float):
        raise FilterRefused(text, item.position, f"{item.op} compares numbers; expected a number without quotes")
    # Only a value that is a number is compared as one.
    number = case((func.substr(said, 1, 1).in_(list("-0123456789")), cast(said, Float(53))), else_=None)
    return _TRACE.id.in_(mine.where(and_(number.is_not(None), compare_number(number, item, text))))


def _orders(clauses: Sequence[str]) -> list[Any]:
    keys: list[Any] = []
    names = []
    for order in parse_order(clauses, entities=_ENTITIES, default="attribute"):
        name = _ALIASES.get(order.key, order.key)
        if order.entity in ("tag", "metadata"):
            table = TAGS if order.entity == "tag" else FACTS
            mine = select(table.c.value).where(table.c.project == _TRACE.project, table.c.trace == _TRACE.id, table.c.key == order.key)
            value: Any = mine.scalar_subquery()
        elif order.entity == "attribute" and name in {**_NUMBERS, **_TEXTS, "experiment_id": None}:
            value = _TRACE.experiment_id if name == "experiment_id" else {**_NUMBERS, **_TEXTS}[name]
        else:
            raise Invalid(f"traces cannot be ordered by {order.key!r}; expected a tag, or one of {', '.join((*_NUMBERS, *_TEXTS))}")
        names.append(name)
        keys += [case((value.is_(None), 1), else_=0), value if order.ascending else value.desc()]
    if "timestamp_ms" not in names:
        keys.append(_TRACE.requested_at.desc())
    return [*keys, _TRACE.id]


def _lower(item: Comparison) -> Comparison:
    def plain(value: Any) -> Any:
        return value.lower().replace("_", " ").replace("state unspecified", "unspecified") if isinstance(value, str) else value

    return replace(item, value=tuple(map(plain, item.value)) if isinstance(item.value, tuple) else plain(item.value))
