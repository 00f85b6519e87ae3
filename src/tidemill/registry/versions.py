"""Versions of registered models: immutable files, or where such files lie, with what they came of. Owns their tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, PrimaryKeyConstraint, Table, func, insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.lineage import link
from tidemill.catalog.schema import METADATA, JsonValue, Moment, Text, upsert
from tidemill.checks.check import CheckRecord, CheckResult, Verdict, keep_results, overall, write_judgement
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest, EventId, ModelName, RunId
from tidemill.core.values import Value, field, fields_of
from tidemill.govern.workspace import Workspace
from tidemill.registry.bundles import FilesElsewhere, describe_tree
from tidemill.registry.models import (
    MODELS,
    RegisteredModel,
    batched,
    fetch_model,
    hold_registry,
    index_values,
    missing,
    touch_model,
    write_model,
)
from tidemill.registry.names import check_model_name, check_tag, check_text
from tidemill.store.trees import Tree, read_tree

Environment = Literal["", "dev", "staging", "production", "archived"]
Status = Literal["pending", "ready", "failed"]

MODEL_VERSIONS = Table(
    "model_versions",
    METADATA,
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("description", Text, nullable=False),
    Column("bundle", Text, nullable=False),  # empty while the files lie elsewhere
    Column("size_bytes", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("run", Text),
    Column("run_link", Text, nullable=False),
    Column("logged_model", Text),
    Column("status", Text, nullable=False),
    Column("status_message", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("metrics", JsonValue(dict[str, float]), nullable=False),
    Column("card", Text),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("deleted_at", Moment),
    Column("actor", Text, nullable=False),
    PrimaryKeyConstraint("project", "model", "version"),
    Index("ix_model_versions_bundle", "project", "bundle"),
    Index("ix_model_versions_updated", "project", "updated_at"),
    Index("ix_model_versions_run", "project", "run"),
    Index("ix_model_versions_logged_model", "project", "logged_model"),
)

VERSION_TAGS = Table(
    "model_version_tags",
    METADATA,
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("tag", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("project", "model", "version", "tag"),
)
index_values("ix_model_version_tags_value", VERSION_TAGS)


class ModelVersion(Value, frozen=True, kw_only=True):
    """One immutable set of files, what was measured of it and what its checks said.

    key: what lineage and events know the model by. bundle: the tree of its files, None while they lie elsewhere. source: what it was
    made of, in the words of who made it; location: the place that this meant then.
    """

    name: ModelName
    key: ModelName
    version: int
    description: str = ""
    bundle: Digest | None
    size_bytes: int
    source: str = ""
    location: str = ""
    run: RunId | None
    run_link: str = ""
    logged_model: str | None = None
    status: Status = "ready"
    status_message: str = ""
    environment: Environment = ""
    verdict: Verdict
    metrics: dict[str, float]
    tags: dict[str, str] = field(default_factory=dict)
    card: Digest | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    actor: str

    @property
    def node(self) -> str:
        """The name of this version in lineage."""
        return f"model:{self.key}@{self.version}"

    @property
    def subject(self) -> str:
        """What events of its model name as their subject."""
        return f"model:{self.key}"

    @property
    def reference(self) -> str:
        """What people call it."""
        return f"{self.name}@{self.version}"


class Origin(Value, frozen=True, kw_only=True):
    """Where a version comes from, as far as it is known. location: the place that source means, when it is none itself.

    sources: lineage nodes besides the run and the logged model.
    """

    source: str = ""
    location: str = ""
    run: RunId | None = None
    run_link: str = ""
    logged_model: str | None = None
    sources: tuple[str, ...] = ()


class ModelRegistered(EventBody, frozen=True, kw_only=True, tag="model.registered"):
    """A model got a new version."""

    name: ModelName
    version: int
    bundle: Digest | None
    verdict: Verdict
    tags: dict[str, str]


def register(
    ws: Workspace,
    name: str,
    bundle: Digest,
    *,
    run: RunId | None = None,
    once: bool = False,
    checks: Sequence[CheckResult] = (),
    metrics: dict[str, float] | None = None,
    tags: dict[str, str] | None = None,
    sources: Sequence[str] = (),
    description: str = "",
    reason: str = "",
    cause: EventId | None = None,
) -> ModelVersion:
    """Make a version of a stored tree that says what it is: a Tidemill bundle (model.json) or an MLflow model (MLmodel).

    The model is made with it when it is new, and description is the model's then. sources are lineage nodes that the version came
    of, besides the run. once: a version of the same tree and run that is there already is the answer, as to a request that was sent
    again. A version whose checks failed is kept, with its evidence, but cannot be promoted without an approver's override.
    Raises Invalid when the tree does not say what it is, or a metric is no finite number.
    """
    ws.require("registry.write", name)
    check_model_name(name)
    if odd := {key: value for key, value in (metrics or {}).items() if not math.isfinite(value)}:
        raise Invalid(f"metrics of model {name!r} are no finite numbers: {odd}; leave out what could not be measured")
    tree = read_tree(ws.objects, bundle)
    found = describe_tree(ws, tree)
    if found.format == "files":
        paths = ", ".join(entry.path for entry in tree.entries[:5])
        raise Invalid(
            f"the files of a version of {name!r} say nowhere what they are: expected model.json or MLmodel among {paths or 'none'}"
        )
    nodes = (f"service:{found.spec.feature_service}",) if found.spec and found.spec.feature_service else ()
    kept = keep_results(ws, f"model:{name}", checks)
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        model = write_model(ws, tx, name, description=description) or fetch_model(tx, ws.project, name)
        if once and (same := _same(tx, ws.project, model, bundle, run)) is not None:
            return same
        origin = Origin(run=run, sources=(*sources, *nodes))
        return _write_version(
            ws, tx, model, origin, tree=(bundle, tree), checks=kept, metrics=metrics or {}, tags=tags or {}, reason=reason, cause=cause
        )


def create_version(
    ws: Workspace,
    name: str,
    *,
    origin: Origin,
    bundle: Digest | None = None,
    description: str = "",
    tags: Mapping[str, str] | None = None,
    wanted: int | None = None,
    reason: str = "",
    cause: EventId | None = None,
) -> ModelVersion:
    """Make a version of a model that is there, of any files, or of files that lie elsewhere. Raises ModelNotFound, Invalid.

    wanted: the number that the version had in another registry; it is kept if no version of the model has had it here.
    """
    ws.require("registry.write", name)
    check_text(description, "description")
    tree = None if bundle is None else (bundle, read_tree(ws.objects, bundle))
    with ws.catalog.transaction() as tx:
        hold_registry(tx, ws.project)
        model = fetch_model(tx, ws.project, name)
        return _write_version(
            ws, tx, model, origin, tree=tree, description=description, tags=tags or {}, wanted=wanted, reason=reason, cause=cause
        )


def _write_version(
    ws: Workspace,
    tx: Connection,
    model: RegisteredModel,
    origin: Origin,
    *,
    tree: tuple[Digest, Tree] | None,
    checks: Sequence[CheckRecord] = (),
    metrics: Mapping[str, float] | None = None,
    description: str = "",
    tags: Mapping[str, str],
    wanted: int | None = None,
    reason: str,
    cause: EventId | None,
) -> ModelVersion:
    for key, value in tags.items():
        check_tag(key, value)
    now, results = ws.clock.now(), [record.result for record in checks]
    mine = (MODEL_VERSIONS.c.project == ws.project) & (MODEL_VERSIONS.c.model == model.key)
    number = (tx.execute(select(func.max(MODEL_VERSIONS.c.version)).where(mine)).scalar_one_or_none() or 0) + 1
    if (
        wanted is not None
        and wanted > 0
        and tx.execute(select(MODEL_VERSIONS.c.version).where(mine, MODEL_VERSIONS.c.version == wanted)).first() is None
    ):
        number = wanted
    bundle, size = (tree[0], tree[1].size_bytes) if tree else (None, 0)
    made = ModelVersion(
        name=model.name, key=model.key, version=number, description=description, bundle=bundle, size_bytes=size,
        source=origin.source, location=origin.location or origin.source, run=origin.run, run_link=origin.run_link,
        logged_model=origin.logged_model, verdict=overall(results),
        metrics=dict(metrics or {}), tags=dict(tags), card=None, created_at=now, updated_at=now, actor=ws.actor.id,
    )  # fmt: skip
    row = {name: getattr(made, name) for name in fields_of(ModelVersion) if name not in ("name", "key", "tags")}
    tx.execute(insert(MODEL_VERSIONS).values(project=ws.project, **{**row, "model": model.key, "bundle": bundle or ""}))
    write_version_tags(tx, ws.project, made, tags)
    touch_model(tx, ws.project, model.key, at=now)
    known = (("run", origin.run), ("logged-model", origin.logged_model))
    for source in dict.fromkeys([*origin.sources, *(f"{kind}:{name}" for kind, name in known if name)]):
        link(tx, ws.project, source=source, target=made.node, relation="made", at=now)
    event = ModelRegistered(name=made.name, version=made.version, bundle=bundle, verdict=made.verdict, tags=_brief(made.tags))
    ws.record(tx, event, subject=made.subject, reason=reason, cause=cause)
    if checks:
        write_judgement(ws, tx, made.node, checks, reason="registration")
    return made


def _same(tx: Connection, project: str, model: RegisteredModel, bundle: Digest, run: RunId | None) -> ModelVersion | None:
    """Return the version of a model that is of a tree and a run, if there is one."""
    mine = (MODEL_VERSIONS.c.model == model.key) & (MODEL_VERSIONS.c.bundle == bundle) & (MODEL_VERSIONS.c.run == run)
    found = versions_of(tx, project, tx.execute(living_versions(project).where(mine).order_by(MODEL_VERSIONS.c.version).limit(1)).all())
    return found[0] if found else None


def write_version_tags(tx: Connection, project: str, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Write tags, replacing those of the same key."""
    same = {"project": project, "model": version.key, "version": version.version}
    upsert(tx, VERSION_TAGS, [{**same, "tag": tag, "value": value} for tag, value in tags.items()])


def touch_version(tx: Connection, project: str, version: ModelVersion, *, at: datetime, **changed: Any) -> None:
    """Say that a version was changed now, and change these of its columns."""
    tx.execute(update(MODEL_VERSIONS).where(of_version(project, version)).values(updated_at=at, **changed))


def bundle_of(version: ModelVersion) -> Digest:
    """Return the tree of a version's files. Raises FilesElsewhere."""
    if version.bundle is None:
        raise FilesElsewhere(version.reference, version.location)
    return version.bundle


def list_versions(ws: Workspace, name: str, *, limit: int = 100) -> list[ModelVersion]:
    """Return the versions of a model, newest first; none for a model that is not there."""
    ws.require("registry.read", name)
    query = living_versions(ws.project).where(MODELS.c.name == name).order_by(MODEL_VERSIONS.c.version.desc()).limit(limit)
    with ws.catalog.reading() as tx:
        return versions_of(tx, ws.project, tx.execute(query).all())


def find_version(ws: Workspace, name: str, version: int) -> ModelVersion:
    """Return a version by the name of its model and its number, and by nothing else. Raises ModelNotFound."""
    ws.require("registry.read", name)
    with ws.catalog.reading() as tx:
        return fetch_version(tx, ws.project, name, version)


def fetch_version(tx: Connection, project: str, name: str, version: int, *, shown: str | None = None) -> ModelVersion:
    """Return a version of the model of a name, in the caller's transaction. Raises ModelNotFound."""
    row = tx.execute(living_versions(project).where(MODELS.c.name == name, MODEL_VERSIONS.c.version == version)).one_or_none()
    if row is None:
        raise missing(tx, project, shown or f"{name}@{version}", name)
    return versions_of(tx, project, [row])[0]


def fetch_key(tx: Connection, project: str, key: str, version: int) -> ModelVersion:
    """Return a version of the model of a key, as lineage, events and endpoints name it; also one in the trash. Raises ModelNotFound."""
    mine = (MODEL_VERSIONS.c.project == project) & (MODEL_VERSIONS.c.model == key) & (MODEL_VERSIONS.c.version == version)
    row = tx.execute(named_versions().where(mine)).one_or_none()
    if row is None:
        raise missing(tx, project, f"{key}@{version}", key)
    return versions_of(tx, project, [row])[0]


def named_versions() -> Any:
    """Return the query of all versions with the names of their models."""
    joined = (MODELS.c.project == MODEL_VERSIONS.c.project) & (MODELS.c.key == MODEL_VERSIONS.c.model)
    return select(MODEL_VERSIONS, MODELS.c.name).join(MODELS, joined)


def living_versions(project: str) -> Any:
    """Return the query of the versions that are not in the trash."""
    return named_versions().where(MODEL_VERSIONS.c.project == project, MODEL_VERSIONS.c.deleted_at.is_(None), MODELS.c.deleted_at.is_(None))


def of_version(project: str, version: ModelVersion) -> Any:
    """Return the clause that picks the row of a version."""
    mine = (MODEL_VERSIONS.c.project == project) & (MODEL_VERSIONS.c.model == version.key)
    return mine & (MODEL_VERSIONS.c.version == version.version)


def versions_of(tx: Connection, project: str, rows: Iterable[Any]) -> list[ModelVersion]:
    """Return rows of `named_versions` as values, with their tags."""
    found = list(rows)
    numbers = {row.version for row in found}
    tags: dict[tuple[str, int], dict[str, str]] = {}
    query = select(VERSION_TAGS).where(VERSION_TAGS.c.project == project).order_by(VERSION_TAGS.c.tag)
    if len(numbers) == 1:  # the one version asked for, of a model that may have thousands
        query = query.where(VERSION_TAGS.c.version == numbers.pop())
    for some in batched(list(dict.fromkeys(row.model for row in found))):
        for tag in tx.execute(query.where(VERSION_TAGS.c.model.in_(some))):
            tags.setdefault((tag.model, tag.version), {})[tag.tag] = tag.value
    names = [name for name in fields_of(ModelVersion) if name not in ("key", "bundle", "tags")]
    return [
        ModelVersion(
            **{name: getattr(row, name) for name in names},
            key=row.model,
            bundle=row.bundle or None,
            tags=tags.get((row.model, row.version), {}),
        )
        for row in found
    ]


def _brief(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags as an event tells them: rules look at short ones, and a text of a hundred pages is no news."""
    return {key: value for key, value in tags.items() if len(value) <= 500}
