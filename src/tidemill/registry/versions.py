"""Registered models and their versions: a name, then immutable bundles with where they came from. Owns their tables."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, PrimaryKeyConstraint, Table, func, insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, insert_new
from tidemill.checks.check import CheckResult, Verdict, keep_results, overall, write_judgement
from tidemill.core.codec import decode
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import Digest, EventId, ModelName, RunId, check_name
from tidemill.core.signature import SPEC_FILE, ModelSpec
from tidemill.core.values import Value, replace
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import read_tree

MODELS = Table(
    "registered_models",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    PrimaryKeyConstraint("project", "name"),
)

MODEL_VERSIONS = Table(
    "model_versions",
    METADATA,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("bundle", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("run", Text),
    Column("verdict", Text, nullable=False),
    Column("metrics", JsonValue(dict[str, float]), nullable=False),
    Column("tags", JsonValue(dict[str, str]), nullable=False),
    Column("card", Text),
    Column("created_at", Moment, nullable=False),
    Column("actor", Text, nullable=False),
    PrimaryKeyConstraint("project", "name", "version"),
    Index("ix_model_versions_bundle", "project", "bundle"),
)


class RegisteredModel(Value, frozen=True, kw_only=True):
    """A name under which versions of a model are kept."""

    name: ModelName
    description: str
    owner: str
    created_at: datetime


class ModelVersion(Value, frozen=True, kw_only=True):
    """One immutable bundle, what was measured of it and what its checks said."""

    name: ModelName
    version: int
    bundle: Digest
    size_bytes: int
    run: RunId | None
    verdict: Verdict
    metrics: dict[str, float]
    tags: dict[str, str]
    card: Digest | None
    created_at: datetime
    actor: str

    @property
    def node(self) -> str:
        """The name of this version in lineage."""
        return f"model:{self.name}@{self.version}"


class ModelRegistered(EventBody, frozen=True, kw_only=True, tag="model.registered"):
    """A model got a new version."""

    name: ModelName
    version: int
    bundle: Digest
    verdict: Verdict
    tags: dict[str, str]


class ModelNotFound(NotFound):
    """No registered model, or no version of it, by that reference."""

    def __init__(self, reference: str, known: Sequence[str]) -> None:
        self.reference, self.known = reference, tuple(known)
        super().__init__(f"there is no model {reference!r} (there are: {', '.join(known) or 'none'}); list them with: tidemill model list")


def register(
    ws: Workspace,
    name: str,
    bundle: Digest,
    *,
    run: RunId | None = None,
    checks: Sequence[CheckResult] = (),
    metrics: dict[str, float] | None = None,
    tags: dict[str, str] | None = None,
    sources: Sequence[str] = (),
    description: str = "",
    reason: str = "",
    cause: EventId | None = None,
) -> ModelVersion:
    """Make a version of a bundle: a stored tree with a model.json. sources are lineage nodes that it came of, besides the run.

    A version whose checks failed is kept, with its evidence, but cannot become an alias without an approver's override.
    Raises Invalid when the bundle has no readable model.json, or a metric is no finite number.
    """
    ws.require("registry.write", name)
    check_name(name, "model")
    if odd := {key: value for key, value in (metrics or {}).items() if not math.isfinite(value)}:
        raise Invalid(f"metrics of model {name!r} are no finite numbers: {odd}; leave out what could not be measured")
    tree = read_tree(ws.objects, bundle)
    spec = read_spec(ws, bundle)
    now, kept = ws.clock.now(), keep_results(ws, f"model:{name}", checks)
    with ws.catalog.transaction() as tx:
        row = {"project": ws.project, "name": name, "description": description, "owner": ws.actor.id, "created_at": now}
        insert_new(tx, MODELS, [row])
        mine = (MODEL_VERSIONS.c.project == ws.project) & (MODEL_VERSIONS.c.name == name)
        newest = tx.execute(select(func.max(MODEL_VERSIONS.c.version)).where(mine)).scalar_one_or_none() or 0
        made = ModelVersion(
            name=ModelName(name), version=newest + 1, bundle=bundle, size_bytes=tree.size_bytes, run=run, verdict=overall(checks),
            metrics=metrics or {}, tags=tags or {}, card=None, created_at=now, actor=ws.actor.id,
        )  # fmt: skip
        tx.execute(insert(MODEL_VERSIONS).values(project=ws.project, **{field: getattr(made, field) for field in made.__struct_fields__}))
        nodes = [*sources, *([f"run:{run}"] if run else []), *([f"service:{spec.feature_service}"] if spec.feature_service else [])]
        for source in dict.fromkeys(nodes):
            link(tx, ws.project, source=source, target=made.node, relation="made", at=now)
        event = ModelRegistered(name=made.name, version=made.version, bundle=bundle, verdict=made.verdict, tags=made.tags)
        ws.record(tx, event, subject=f"model:{name}", reason=reason, cause=cause)
        if kept:
            write_judgement(ws, tx, made.node, kept, reason="registration")
    return made


def attach_card(ws: Workspace, version: ModelVersion, markdown: str) -> ModelVersion:
    """Keep the model card of a version."""
    ws.require("registry.write", version.name)
    digest = ws.objects.put(markdown.encode())
    with ws.catalog.transaction() as tx:
        mine = (MODEL_VERSIONS.c.project == ws.project) & (MODEL_VERSIONS.c.name == version.name)
        tx.execute(update(MODEL_VERSIONS).where(mine, MODEL_VERSIONS.c.version == version.version).values(card=digest))
    return replace(version, card=digest)


def read_spec(ws: Workspace, bundle: Digest) -> ModelSpec:
    """Return the model.json of a bundle."""
    return decode(ws.objects.get(read_tree(ws.objects, bundle).entry(SPEC_FILE).digest), ModelSpec, what=SPEC_FILE)


def list_models(ws: Workspace) -> list[RegisteredModel]:
    """Return the registered models of this project by name."""
    ws.require("registry.read")
    with ws.catalog.reading() as tx:
        rows = tx.execute(select(MODELS).where(MODELS.c.project == ws.project).order_by(MODELS.c.name)).all()
    return [RegisteredModel(name=ModelName(r.name), description=r.description, owner=r.owner, created_at=r.created_at) for r in rows]


def list_versions(ws: Workspace, name: str, *, limit: int = 100) -> list[ModelVersion]:
    """Return the versions of a model, newest first."""
    ws.require("registry.read", name)
    mine = (MODEL_VERSIONS.c.project == ws.project) & (MODEL_VERSIONS.c.name == name)
    with ws.catalog.reading() as tx:
        return [
            _version(row) for row in tx.execute(select(MODEL_VERSIONS).where(mine).order_by(MODEL_VERSIONS.c.version.desc()).limit(limit))
        ]


def fetch_version(tx: Connection, project: str, name: str, version: int) -> ModelVersion:
    """Return a version, in the caller's transaction. Raises ModelNotFound."""
    mine = (MODEL_VERSIONS.c.project == project) & (MODEL_VERSIONS.c.name == name) & (MODEL_VERSIONS.c.version == version)
    row = tx.execute(select(MODEL_VERSIONS).where(mine)).one_or_none()
    if row is None:
        known = tx.execute(select(MODELS.c.name).where(MODELS.c.project == project).order_by(MODELS.c.name)).scalars()
        raise ModelNotFound(f"{name}@{version}", list(known))
    return _version(row)


def _version(row: Any) -> ModelVersion:
    return ModelVersion(**{name: getattr(row, name) for name in ModelVersion.__struct_fields__})
