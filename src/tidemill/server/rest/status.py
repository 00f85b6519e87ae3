"""Route of the server's own status."""

from datetime import datetime
from importlib.metadata import version

from tidemill.catalog.events import last_seq
from tidemill.core.settings import Origin, shown
from tidemill.core.values import Json, Value
from tidemill.govern.actors import Actor
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import Route

VERSION = version("tidemill")


class ServerStatus(Value, frozen=True, kw_only=True):
    """What a caller wants to know before anything else. now is the time of the world; simulated says who moves it.

    grpc_address: where predictions are served over gRPC, HOST:PORT; null when they are not.
    """

    version: str
    home: str
    project: str
    actor: Actor
    now: datetime
    simulated: bool
    serving_url: str
    grpc_address: str | None
    last_event: int


class ShownSetting(Value, frozen=True, kw_only=True):
    """One setting with the place that its value came from. Passwords are masked."""

    name: str
    value: Json
    origin: Origin


def get_status(ws: Workspace) -> ServerStatus:
    """Say which server this is, who the caller is, what time it is and where predictions are served."""
    ws.require("govern.read")
    host, grpc_port = _reachable(ws.settings.host), ws.settings.grpc_port
    with ws.catalog.reading() as tx:
        seq = last_seq(tx, ws.project)
    return ServerStatus(
        version=VERSION,
        home=str(ws.home),
        project=ws.project,
        actor=ws.actor,
        now=ws.clock.now(),
        simulated=ws.clock.simulated,
        serving_url=f"http://{host}:{ws.settings.serve_port}",
        grpc_address=f"{host}:{grpc_port}" if grpc_port is not None else None,
        last_event=seq,
    )


def list_settings(ws: Workspace) -> list[ShownSetting]:
    """List all settings and where each value came from."""
    ws.require("govern.read")
    return [ShownSetting(name=name, value=value, origin=ws.loaded.origins[name]) for name, value in shown(ws.settings).items()]


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


ROUTES = (Route("GET", "/status", get_status), Route("GET", "/settings", list_settings))
