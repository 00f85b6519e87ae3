"""Comments on models and versions: who said what when; an edit keeps what was said before. Owns their table."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Index, Integer, PrimaryKeyConstraint, Table, insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, Moment, Text, current, upsert
from tidemill.core.errors import Invalid, NotFound, NotPermitted
from tidemill.core.ids import EventId, ModelName, new_id
from tidemill.core.values import Value
from tidemill.govern.roles import allows
from tidemill.govern.workspace import Workspace
from tidemill.registry.models import fetch_model, hold_registry
from tidemill.registry.names import check_text
from tidemill.registry.versions import fetch_version

WHOLE = 0  # the version that stands for the model as such

COMMENTS = Table(
    "model_comments",
    METADATA,
    Column("project", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("text", Text, nullable=False),
    Column("valid_from", Moment, nullable=False),
    Column("valid_to", Moment),
    PrimaryKeyConstraint("project", "id", "valid_from"),
    Index("ix_model_comments_model", "project", "model", "version", "at"),
)


class Said(Value, frozen=True, kw_only=True):
    """What a comment said in a span of time; valid_to is empty while it still says so."""

    text: str
    valid_from: datetime
    valid_to: datetime | None


class Comment(Value, frozen=True, kw_only=True):
    """What somebody said of a version (None: of the model), as it reads now. earlier: what it said before, newest first."""

    id: str
    version: int | None
    actor: str
    at: datetime
    text: str
    edited_at: datetime | None
    earlier: tuple[Said, ...] = ()


class ModelCommented(EventBody, frozen=True, kw_only=True, tag="model.commented"):
    """Somebody said something of a model (version: none) or a version, changed it, or took it back."""

    model: ModelName
    version: int | None
    comment: str
    act: str


class NotYours(NotPermitted):
    """Only who wrote a comment changes it; an admin may take it away."""

    def __init__(self, comment: str, author: str) -> None:
        self.comment, self.author = comment, author
        super().__init__(f"comment {comment} was written by {author!r}, who alone may change it; an admin may take it away")


def comment(ws: Workspace, model: str, text: str, *, version: int | None = None, cause: EventId | None = None) -> Comment:
    """Say something of a version, or of the model. Locks do not keep anybody from it. Raises ModelNotFound, Invalid."""
    ws.require("registry.write", model)
    _check(text)
    now = ws.clock.now()
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        key, name = _place(tx, ws.project, model, version)
        made = Comment(id=new_id(), version=version, actor=ws.actor.id, at=now, text=text, edited_at=None)
        row = {"id": made.id, "model": key, "version": version or WHOLE, "actor": ws.actor.id, "at": now, "text": text, "valid_from": now}
        tx.execute(insert(COMMENTS).values(project=ws.project, **row))
        event = ModelCommented(model=name, version=version, comment=made.id, act="said")
        ws.record(tx, event, subject=f"model:{key}", cause=cause)
    return made


def edit_comment(ws: Workspace, id: str, text: str, *, cause: EventId | None = None) -> Comment:  # noqa: A002
    """Change what one's own comment says; what it said before is kept. Raises NotFound, NotYours, Invalid."""
    ws.require("registry.write", id)
    _check(text)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        row = _current(tx, ws.project, id)
        if row.actor != ws.actor.id:
            raise NotYours(id, row.actor)
        now = ws.clock.now()
        tx.execute(update(COMMENTS).where(_mine(ws.project, id), current(COMMENTS)).values(valid_to=now))
        # Changed twice in one moment: the last word counts.
        upsert(tx, COMMENTS, [{**row._mapping, "text": text, "valid_from": now, "valid_to": None}])
        _record(ws, tx, row, "changed", cause)
        return _comments(tx.execute(select(COMMENTS).where(_mine(ws.project, id)).order_by(COMMENTS.c.valid_from)).all())[0]


def delete_comment(ws: Workspace, id: str, *, cause: EventId | None = None) -> None:  # noqa: A002
    """Take a comment back: it is shown no more, and kept. Raises NotFound, NotYours."""
    ws.require("registry.write", id)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        row = _current(tx, ws.project, id)
        if row.actor != ws.actor.id and not allows(ws.actor.role, "registry.admin"):
            raise NotYours(id, row.actor)
        tx.execute(update(COMMENTS).where(_mine(ws.project, id), current(COMMENTS)).values(valid_to=ws.clock.now()))
        _record(ws, tx, row, "taken back", cause)


def list_comments(ws: Workspace, model: str, *, version: int | None = None) -> list[Comment]:
    """Return what was said of a model and its versions, or of one version, oldest first."""
    ws.require("registry.read", model)
    with ws.catalog.reading() as tx:
        key, _ = _place(tx, ws.project, model, version)
        query = select(COMMENTS).where(COMMENTS.c.project == ws.project, COMMENTS.c.model == key)
        if version is not None:
            query = query.where(COMMENTS.c.version == version)
        return _comments(tx.execute(query.order_by(COMMENTS.c.at, COMMENTS.c.id, COMMENTS.c.valid_from)).all())


def _check(text: str) -> None:
    if not check_text(text, "comment").strip():
        raise Invalid("a comment says something; expected a text that is not blank")


def _place(tx: Connection, project: str, name: str, version: int | None) -> tuple[ModelName, ModelName]:
    if version is None:
        model = fetch_model(tx, project, name)
        return model.key, model.name
    found = fetch_version(tx, project, name, version)
    return found.key, found.name


def _mine(project: str, comment: str) -> Any:
    return (COMMENTS.c.project == project) & (COMMENTS.c.id == comment)


def _current(tx: Connection, project: str, comment: str) -> Any:
    row = tx.execute(select(COMMENTS).where(_mine(project, comment), current(COMMENTS))).one_or_none()
    if row is None:
        raise NotFound(f"there is no comment {comment!r}; see what was said with: tidemill model comment NAME")
    return row


def _record(ws: Workspace, tx: Connection, row: Any, act: str, cause: EventId | None) -> None:
    event = ModelCommented(model=row.model, version=row.version or None, comment=row.id, act=act)
    ws.record(tx, event, subject=f"model:{row.model}", cause=cause)


def _comments(rows: Any) -> list[Comment]:
    """Return the comments that still stand, of rows with the spans of each in their order."""
    spans: dict[str, list[Any]] = {}
    for row in rows:
        spans.setdefault(row.id, []).append(row)
    return [
        Comment(
            id=last.id, version=last.version or None, actor=last.actor, at=last.at, text=last.text,
            edited_at=last.valid_from if len(said) > 1 else None,
            earlier=tuple(Said(text=row.text, valid_from=row.valid_from, valid_to=row.valid_to) for row in reversed(said[:-1])),
        )
        for said in spans.values()
        if (last := said[-1]).valid_to is None
    ]  # fmt: skip
