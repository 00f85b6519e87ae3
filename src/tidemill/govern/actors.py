"""Actors (people and services), projects, and who holds which role where. Owns their tables."""

from datetime import datetime
from typing import Any, get_args

from sqlalchemy import Column, Connection, Index, PrimaryKeyConstraint, Table, insert, select, update

from tidemill.catalog.events import EventBody
from tidemill.catalog.schema import METADATA, Moment, Text, current, insert_new
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import ActorId
from tidemill.core.values import Value
from tidemill.govern.roles import Role

EVERYWHERE = "*"
OWNER = ActorId("owner")
CONTROLLER = ActorId("controller")

PROJECTS = Table(
    "projects",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("created_at", Moment, nullable=False),
)

ACTORS = Table(
    "actors",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
)

ROLE_BINDINGS = Table(
    "role_bindings",
    METADATA,
    Column("actor", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("valid_from", Moment, nullable=False),
    Column("valid_to", Moment),
    PrimaryKeyConstraint("actor", "project", "valid_from"),
    Index("ix_role_bindings_current", "actor", "valid_to"),
)


class Actor(Value, frozen=True, kw_only=True):
    """Who acts, with the role that counts in the project at hand."""

    id: ActorId
    name: str
    role: Role


class RoleGranted(EventBody, frozen=True, kw_only=True, tag="role.granted"):
    """An actor got a role, in one project or everywhere."""

    actor: ActorId
    scope: str
    role: Role


class ProjectCreated(EventBody, frozen=True, kw_only=True, tag="project.created"):
    """A namespace was made."""

    name: str


class ProjectNotFound(NotFound):
    """No project of that name."""

    def __init__(self, project: str, known: list[str]) -> None:
        self.project, self.known = project, known
        super().__init__(
            f"there is no project {project!r} (there are: {', '.join(known)}); make it with: tidemill access project {project}"
        )


def check_role(role: str) -> Role:
    """Return role if it is one of the four. Raises Invalid."""
    for known in get_args(Role):
        if role == known:
            return known  # type: ignore[no-any-return]
    raise Invalid(f"role {role!r} is not known; expected one of: {', '.join(get_args(Role))}")


def write_actor(tx: Connection, actor: ActorId, *, name: str, at: datetime) -> None:
    """Add an actor; one that is there already stays as it is."""
    insert_new(tx, ACTORS, [{"id": actor, "name": name, "created_at": at}])


def write_project(tx: Connection, project: str, *, at: datetime) -> bool:
    """Add a project; return whether it is new."""
    return bool(insert_new(tx, PROJECTS, [{"name": project, "created_at": at}]))


def check_project(tx: Connection, project: str) -> None:
    """Raises ProjectNotFound when there is no such project."""
    known = list(tx.execute(select(PROJECTS.c.name).order_by(PROJECTS.c.name)).scalars())
    if project not in known:
        raise ProjectNotFound(project, known)


def write_role(tx: Connection, actor: ActorId, role: Role, *, project: str, at: datetime) -> None:
    """Give an actor a role, closing the one held before."""
    held = (ROLE_BINDINGS.c.actor == actor) & (ROLE_BINDINGS.c.project == project) & current(ROLE_BINDINGS)
    before = tx.execute(select(ROLE_BINDINGS.c.role, ROLE_BINDINGS.c.valid_from).where(held)).one_or_none()
    if before is not None and before.role == role:
        return
    if before is not None and before.valid_from == at:  # changed twice in one moment: the last word counts
        tx.execute(update(ROLE_BINDINGS).where(held).values(role=role))
        return
    tx.execute(update(ROLE_BINDINGS).where(held).values(valid_to=at))
    tx.execute(insert(ROLE_BINDINGS).values(actor=actor, project=project, role=role, valid_from=at))


def read_actor(tx: Connection, actor: ActorId, *, project: str) -> Actor:
    """Return an actor with the role held in a project (one held everywhere counts too; none means viewer of nothing: NotFound)."""
    row = tx.execute(select(ACTORS).where(ACTORS.c.id == actor)).one_or_none()
    if row is None:
        raise NotFound(f"there is no actor {actor!r}; add one with: tidemill access grant {actor} viewer")
    held: dict[str, Any] = {
        binding.project: binding.role
        for binding in tx.execute(
            select(ROLE_BINDINGS).where(
                ROLE_BINDINGS.c.actor == actor, ROLE_BINDINGS.c.project.in_((project, EVERYWHERE)), current(ROLE_BINDINGS)
            )
        )
    }
    if not held:
        raise NotFound(
            f"actor {actor!r} has no role in project {project!r}; an admin can give one with: tidemill access grant {actor} viewer"
        )
    return Actor(id=ActorId(row.id), name=row.name, role=held.get(project) or held[EVERYWHERE])
