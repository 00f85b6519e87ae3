"""Registered models: names under which versions are kept. Owns their tables; what changes them is in `describe` and `trash`.

A model is known by its key wherever a record must outlast its name: in lineage, in events, in other tables. The key is the name
that it was made with (with ~2 behind it when an earlier model has that key), so that a rename is one row, and a model in the
trash keeps its history apart from a new one of the same name.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Index, PrimaryKeyConstraint, Table, func, literal_column, select, update

from tidemill.catalog.events import HEADS, EventBody, read_events
from tidemill.catalog.schema import METADATA, Moment, Text, insert_new, upsert
from tidemill.core.errors import Conflict, NotFound
from tidemill.core.ids import EventId, ModelName
from tidemill.core.values import Value, field
from tidemill.govern.workspace import Workspace
from tidemill.registry.names import check_model_name, check_tag, check_text

SHOWN_NAMES = 20
NAMED_AT_ONCE = 500
TAG_SHORT = 256  # letters of a value that an index holds whole; PostgreSQL takes at most a third of a page under one key

MODELS = Table(
    "registered_models",
    METADATA,
    Column("project", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("deleted_at", Moment),
    PrimaryKeyConstraint("project", "key"),
    Index("ix_registered_models_updated", "project", "updated_at"),
)
# Names are unique among the living only: the trash frees them.
Index(
    "uq_registered_models_name",
    MODELS.c.project,
    MODELS.c.name,
    unique=True,
    sqlite_where=MODELS.c.deleted_at.is_(None),
    postgresql_where=MODELS.c.deleted_at.is_(None),
)

MODEL_TAGS = Table(
    "model_tags",
    METADATA,
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("tag", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("project", "model", "tag"),
)


def index_values(name: str, tags: Table) -> None:
    """Give a table of tags the index by value, of those that are short."""
    short = func.length(tags.c.value) <= literal_column(str(TAG_SHORT))
    Index(name, tags.c.project, tags.c.tag, tags.c.value, sqlite_where=short, postgresql_where=short)


index_values("ix_model_tags_value", MODEL_TAGS)


class RegisteredModel(Value, frozen=True, kw_only=True):
    """A name under which versions of a model are kept. key: what lineage and events know it by, whatever its name."""

    name: ModelName
    key: ModelName
    description: str
    owner: str
    tags: dict[str, str] = field(default_factory=dict)
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None

    @property
    def subject(self) -> str:
        """What events of this model name as their subject."""
        return f"model:{self.key}"


class ModelCreated(EventBody, frozen=True, kw_only=True, tag="model.created"):
    """A model got its name, without a version yet."""

    name: ModelName


class ModelNotFound(NotFound):
    """No registered model, or no version of it, by that reference."""

    def __init__(self, reference: str, known: Sequence[str], hint: str = "") -> None:
        self.reference, self.known = reference, tuple(known)
        has = ", ".join(known[:SHOWN_NAMES]) + (", …" if len(known) > SHOWN_NAMES else "") or "none"
        super().__init__(f"there is no model {reference!r} ({hint or f'there are: {has}'}); list them with: tidemill model list")


class ModelExists(Conflict):
    """The name is taken."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"registered model {name!r} already exists; add a version to it, or choose another name")


def create_model(
    ws: Workspace,
    name: str,
    *,
    description: str = "",
    tags: Mapping[str, str] | None = None,
    reason: str = "",
    cause: EventId | None = None,
) -> RegisteredModel:
    """Make a registered model without versions. Raises ModelExists, Invalid."""
    ws.require("registry.write", name)
    check_model_name(name)
    check_text(description, "description")
    for key, value in (tags or {}).items():
        check_tag(key, value)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        made = write_model(ws, tx, name, description=description)
        if made is None:
            raise ModelExists(name)
        write_model_tags(tx, ws.project, made.key, tags or {})
        ws.record(tx, ModelCreated(name=made.name), subject=made.subject, reason=reason, cause=cause)
        return fetch_model(tx, ws.project, name)


def write_model(ws: Workspace, tx: Connection, name: str, *, description: str = "") -> RegisteredModel | None:
    """Write a model of a free name; return None when the name is taken. In the caller's transaction."""
    now = ws.clock.now()
    row = {"project": ws.project, "key": _free_key(tx, ws.project, name), "name": name, "description": description,
           "owner": ws.actor.id, "created_at": now, "updated_at": now}  # fmt: skip
    if not insert_new(tx, MODELS, [row]):
        return None
    return fetch_model(tx, ws.project, name)


def write_model_tags(tx: Connection, project: str, key: str, tags: Mapping[str, str]) -> None:
    """Write tags, replacing those of the same key."""
    upsert(tx, MODEL_TAGS, [{"project": project, "model": key, "tag": tag, "value": value} for tag, value in tags.items()])


def touch_model(tx: Connection, project: str, key: str, *, at: datetime, **changed: Any) -> None:
    """Say that a model was changed now, and change these of its columns."""
    tx.execute(update(MODELS).where(MODELS.c.project == project, MODELS.c.key == key).values(updated_at=at, **changed))


def read_model(ws: Workspace, name: str) -> RegisteredModel:
    """Return the registered model of a name. Raises ModelNotFound."""
    ws.require("registry.read", name)
    with ws.catalog.reading() as tx:
        return fetch_model(tx, ws.project, name)


def list_models(ws: Workspace) -> list[RegisteredModel]:
    """Return the registered models of this project by name."""
    ws.require("registry.read")
    living = select(MODELS).where(MODELS.c.project == ws.project, MODELS.c.deleted_at.is_(None)).order_by(MODELS.c.name)
    with ws.catalog.reading() as tx:
        return models_of(tx, ws.project, tx.execute(living).all())


def fetch_model(tx: Connection, project: str, name: str, *, shown: str | None = None) -> RegisteredModel:
    """Return the model of a name, in the caller's transaction. Raises ModelNotFound, which says what was asked for (shown)."""
    found = find_model(tx, project, name)
    if found is None:
        raise missing(tx, project, shown or name, name)
    return found


def find_model(tx: Connection, project: str, name: str) -> RegisteredModel | None:
    """Return the model of a name, None when there is none."""
    mine = select(MODELS).where(MODELS.c.project == project, MODELS.c.name == name, MODELS.c.deleted_at.is_(None))
    row = tx.execute(mine).one_or_none()
    return None if row is None else models_of(tx, project, [row])[0]


def find_key(tx: Connection, project: str, key: str) -> RegisteredModel | None:
    """Return the model of a key, also one in the trash, None when there is none."""
    row = tx.execute(select(MODELS).where(MODELS.c.project == project, MODELS.c.key == key)).one_or_none()
    return None if row is None else models_of(tx, project, [row])[0]


def hold_registry(tx: Connection, project: str) -> None:
    """Let nobody else change the registry until the transaction's end: what is read from here on stays true, aliases, locks and numbers.

    What is held is the head of the project's events: whoever changes anything comes to it at last, and a rollout comes to it first, so
    that with another lock two could wait for each other.
    """
    tx.execute(select(HEADS.c.seq).where(HEADS.c.project == project).with_for_update())


def missing(tx: Connection, project: str, reference: str, name: str) -> ModelNotFound:
    """Return the error that says what there is instead of a model or version."""
    renamed = find_key(tx, project, name)
    if renamed is not None and renamed.name != name and renamed.deleted_at is None:
        return ModelNotFound(reference, (), f"the model made as {name!r} is called {renamed.name!r} now")
    living = select(MODELS.c.name).where(MODELS.c.project == project, MODELS.c.deleted_at.is_(None))
    return ModelNotFound(reference, list(tx.execute(living.order_by(MODELS.c.name).limit(SHOWN_NAMES + 1)).scalars()))


def models_of(tx: Connection, project: str, rows: Iterable[Any]) -> list[RegisteredModel]:
    """Return rows of the table as values, with their tags."""
    found = list(rows)
    tags: dict[str, dict[str, str]] = {}
    query = select(MODEL_TAGS).where(MODEL_TAGS.c.project == project).order_by(MODEL_TAGS.c.tag)
    for some in batched([row.key for row in found]):
        for tag in tx.execute(query.where(MODEL_TAGS.c.model.in_(some))):
            tags.setdefault(tag.model, {})[tag.tag] = tag.value
    names = ("name", "key", "description", "owner", "created_at", "updated_at", "deleted_at")
    return [RegisteredModel(**{name: getattr(row, name) for name in names}, tags=tags.get(row.key, {})) for row in found]


def batched(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """Return keys in parts that one statement may name."""
    return (keys[start : start + NAMED_AT_ONCE] for start in range(0, len(keys), NAMED_AT_ONCE))


def _free_key(tx: Connection, project: str, name: str) -> str:
    """Return the name, with a number behind it when a model has, or once had, it as its key: what events told must stay true."""
    like = (MODELS.c.key == name) | MODELS.c.key.startswith(f"{name}~", autoescape=True)
    taken = set(tx.execute(select(MODELS.c.key).where(MODELS.c.project == project, like)).scalars())
    key, number = name, 1
    while key in taken or read_events(tx, project, subject=f"model:{key}", limit=1):
        number += 1
        key = f"{name}~{number}"
    return key
