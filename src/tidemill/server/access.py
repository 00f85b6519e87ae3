"""Who a request comes from, and whether a browser may send it: the gate before every route."""

from collections.abc import Sequence
from pathlib import Path

from starlette.types import Scope

from tidemill.core.ids import ActorId
from tidemill.core.settings import Settings
from tidemill.govern.actors import check_project, read_actor
from tidemill.govern.keys import authenticate
from tidemill.govern.workspace import Workspace
from tidemill.server.errors import HostRefused, OriginRefused

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})


class Access:
    """Opens the workspace for the caller of a request. Safe from several threads."""

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self._projects: set[str] = set()  # seen in the catalog: a project is never removed, so none is asked for twice

    @property
    def settings(self) -> Settings:
        return self._ws.settings

    def enter(self, project: str | None, token: str | None) -> Workspace:
        """Return the workspace for the actor behind a token. Raises ProjectNotFound, KeyMissing, KeyRefused, NotPermitted."""
        name = project or self._ws.project
        if self.settings.authentication == "off":
            actor = self._ws.actor
        else:
            actor = authenticate(self._ws.catalog, token, project=name, at=self._ws.clock.now())
        if name not in self._projects:
            with self._ws.catalog.reading() as tx:
                check_project(tx, name)
            self._projects.add(name)
        if actor is self._ws.actor and name == self._ws.project:
            return self._ws
        return self._ws.acting(actor, name)

    def enter_as(self, actor: str, project: str) -> Workspace:
        """Return the workspace for an actor that was let in before, with the role that it has now. Raises NotFound."""
        if self.settings.authentication == "off":
            return self._ws.acting(self._ws.actor, project)
        with self._ws.catalog.reading() as tx:
            return self._ws.acting(read_actor(tx, ActorId(actor), project=project), project)

    @property
    def state(self) -> Path:
        """The folder that holds what Tidemill keeps."""
        return self._ws.state

    def scratch(self) -> Path:
        """Return the folder for bodies under way: on the disk of the object store, so that keeping one is a rename."""
        folder = self._ws.state / "tmp"
        folder.mkdir(exist_ok=True)
        return folder


def check_host(host: str, allowed: frozenset[str]) -> None:
    """Raises HostRefused unless the Host header names this server. Guards an unauthenticated server against DNS rebinding."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    if name.lower() not in allowed:
        raise HostRefused(host)


def check_origin(method: str, host: str, origin: str | None) -> None:
    """Raises OriginRefused when a page of another origin asks for a change. Programs send no Origin."""
    if method not in HARMLESS and origin is not None and origin.partition("://")[2].lower() != host.lower():
        raise OriginRefused(origin)


class BrowserGuard:
    """Refuses requests that a foreign web page makes a browser send."""

    def __init__(self, *, hosts: Sequence[str], check_hosts: bool) -> None:
        self.allowed = frozenset(name.lower() for name in (*LOCAL_HOSTS, *hosts))
        self.check_hosts = check_hosts

    def check(self, scope: Scope) -> None:
        """Raises HostRefused, OriginRefused."""
        host, origin = b"", None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value.decode("latin-1")
        named = host.decode("latin-1")
        if self.check_hosts:
            check_host(named, self.allowed)
        check_origin(scope["method"], named, origin)
