"""The workspace: everything a service needs, opened for one actor in one project."""

import copy
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, select

from tidemill.catalog import events
from tidemill.catalog.catalog import Catalog
from tidemill.catalog.events import EventBody
from tidemill.catalog.migrate import WorkspaceOlder, check_schema, migrate
from tidemill.catalog.schema import current
from tidemill.core.clock import Clock, open_clock
from tidemill.core.errors import Invalid, Unavailable
from tidemill.core.ids import ActorId, EventId, check_name
from tidemill.core.settings import FILE_NAME, STATE_NAME, Loaded, Settings, load_settings
from tidemill.govern.actors import (
    CONTROLLER,
    EVERYWHERE,
    OWNER,
    PROJECTS,
    ROLE_BINDINGS,
    Actor,
    ProjectCreated,
    RoleGranted,
    check_project,
    check_role,
    read_actor,
    write_actor,
    write_project,
    write_role,
)
from tidemill.govern.roles import ActionRefused, allows
from tidemill.store.objects import ObjectStore
from tidemill.store.online import OnlineStore
from tidemill.store.table import open_online, open_store

DEFAULT_PROJECT = "default"
_TOML = """\
# A Tidemill workspace. Every setting has a default; see them all, and where each came from: tidemill status --settings

[settings]
"""


class WorkspaceCreated(EventBody, frozen=True, kw_only=True, tag="workspace.created"):
    """A workspace was made."""

    version: str


class _Stores:
    """The stores of a workspace, opened when first asked for and shared by all who act in it."""

    def __init__(self, settings: Settings, state: Path) -> None:
        self._settings, self._state = settings, state

    @cached_property
    def objects(self) -> ObjectStore:
        return open_store(self._settings.objects, cache=self._state / "cache" / "objects", base=self._state)

    @cached_property
    def online(self) -> OnlineStore:
        return open_online(self._settings.online, base=self._state)

    def close(self) -> None:
        if "online" in vars(self):
            self.online.close()


class Workspace:
    """An open workspace. Passed first to every service; safe from several threads."""

    def __init__(self, home: Path, loaded: Loaded, catalog: Catalog, clock: Clock, actor: Actor, project: str) -> None:
        self.home, self.loaded, self.catalog, self.clock, self.actor, self.project = home, loaded, catalog, clock, actor, project
        self._stores = _Stores(loaded.settings, home / STATE_NAME)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def state(self) -> Path:
        """The folder that holds what Tidemill keeps."""
        return self.home / STATE_NAME

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    @property
    def objects(self) -> ObjectStore:
        return self._stores.objects

    @property
    def online(self) -> OnlineStore:
        return self._stores.online

    def require(self, action: str, resource: str = "*") -> None:
        """Raises ActionRefused unless the actor's role covers the action."""
        if not allows(self.actor.role, action):
            raise ActionRefused(self.actor.id, self.actor.role, action, resource, self.project)

    def record(self, tx: Connection, body: EventBody, *, subject: str, reason: str = "", cause: EventId | None = None) -> EventId:
        """Write an event of this actor, now, in the transaction of what it tells of."""
        return events.append(
            tx, body, project=self.project, actor=self.actor.id, at=self.clock.now(), subject=subject, reason=reason, cause=cause
        )

    def acting(self, actor: Actor, project: str) -> Self:
        """Return this workspace for another actor or project, sharing its connections."""
        other = copy.copy(self)
        other.actor, other.project = actor, project
        return other

    def close(self) -> None:
        """Give connections back: the catalog's, and the online store's if it was opened."""
        self.catalog.close()
        self._stores.close()


def init_workspace(home: Path | str, **arguments: Any) -> Workspace:
    """Make a workspace in a folder, or bring an older one up to date, and open it for its owner. Doing it again changes nothing."""
    home = Path(home).resolve()
    try:
        state = home / STATE_NAME
        state.mkdir(parents=True, exist_ok=True)
        state.chmod(0o700)
        if not (home / FILE_NAME).exists():
            (home / FILE_NAME).write_text(_TOML, "utf-8")
    except OSError as error:
        raise Unavailable(
            f"{home} cannot hold a workspace: {error.strerror}; choose a folder that you may write to, with free space"
        ) from error
    loaded = load_settings(home, arguments=arguments)
    catalog, clock = Catalog(loaded.settings.catalog, folder=state), open_clock(loaded.settings.clock, base=state)
    migrate(catalog)
    now = clock.now()
    with catalog.transaction() as tx:
        fresh = write_project(tx, DEFAULT_PROJECT, at=now)
        for actor, name in ((OWNER, "the owner"), (CONTROLLER, "the controller")):
            write_actor(tx, actor, name=name, at=now)
            write_role(tx, actor, "admin", project=EVERYWHERE, at=now)
        ws = Workspace(home, loaded, catalog, clock, read_actor(tx, OWNER, project=DEFAULT_PROJECT), DEFAULT_PROJECT)
        if fresh:
            ws.record(tx, WorkspaceCreated(version=_package_version()), subject="workspace")
    return ws


def open_workspace(home: Path | str, *, actor: ActorId = OWNER, project: str = DEFAULT_PROJECT, **arguments: Any) -> Workspace:
    """Open a workspace for an actor. Raises NotFound, Unavailable, WorkspaceNewer, WorkspaceOlder."""
    home = Path(home).resolve()
    if not (home / STATE_NAME).is_dir():
        raise Invalid(f"{home} is not a Tidemill workspace; make it one with: tidemill init {home}")
    loaded = load_settings(home, arguments=arguments)
    state = home / STATE_NAME
    catalog = Catalog(loaded.settings.catalog, folder=state)
    if not check_schema(catalog):
        raise WorkspaceOlder
    with catalog.reading() as tx:
        check_project(tx, project)
        found = read_actor(tx, actor, project=project)
    return Workspace(home, loaded, catalog, open_clock(loaded.settings.clock, base=state), found, project)


def grant_role(ws: Workspace, actor: str, role: str, *, reason: str = "") -> Actor:
    """Give an actor (added when new) a role in this project, no stronger than the giver's own. Raises Invalid, NotPermitted."""
    ws.require("govern.admin", actor)
    check_name(actor, "actor")
    wanted, now = check_role(role), ws.clock.now()
    with ws.catalog.transaction() as tx:
        write_actor(tx, ActorId(actor), name=actor, at=now)
        write_role(tx, ActorId(actor), wanted, project=ws.project, at=now)
        ws.record(tx, RoleGranted(actor=ActorId(actor), scope=ws.project, role=wanted), subject=f"actor:{actor}", reason=reason)
        return read_actor(tx, ActorId(actor), project=ws.project)


def create_project(ws: Workspace, name: str, *, reason: str = "") -> None:
    """Make a namespace. One that exists stays as it is."""
    ws.require("govern.admin", name)
    check_name(name, "project")
    with ws.catalog.transaction() as tx:
        if write_project(tx, name, at=ws.clock.now()):
            ws.record(tx, ProjectCreated(name=name), subject=f"project:{name}", reason=reason)


def list_projects(ws: Workspace) -> list[str]:
    """Return the projects that the actor has a role in, by name."""
    held = select(ROLE_BINDINGS.c.project).where(ROLE_BINDINGS.c.actor == ws.actor.id, current(ROLE_BINDINGS))
    with ws.catalog.reading() as tx:
        mine = set(tx.execute(held).scalars())
        known = list(tx.execute(select(PROJECTS.c.name).order_by(PROJECTS.c.name)).scalars())
    return known if EVERYWHERE in mine else [name for name in known if name in mine]


def _package_version() -> str:
    from importlib.metadata import version  # (20 ms, needed once in a workspace's life)

    return version("tidemill")
