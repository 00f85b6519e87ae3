"""gRPC for one worker: grpc.aio on the worker's own event loop, on a port that several workers may share.

gRPC takes no listening socket from others, only an address. So each worker listens for itself (SO_REUSEPORT: the kernel deals new
connections out), and the supervisor, which must not listen there, keeps the port by a socket that is bound and no more.
"""

from collections.abc import Callable, Sequence
from typing import Any

import grpc

from tidemill.core.errors import Unavailable
from tidemill.serving.grpc.routes import GrpcRoutes
from tidemill.serving.world import World


class GrpcServer:
    """The services of one worker at one address."""

    def __init__(self, routes: GrpcRoutes, *, host: str, port: int, message_bytes: int) -> None:
        """port 0: a free one. Raises Unavailable."""
        self._routes = routes
        self._server = grpc.aio.server(options=_options(message_bytes))
        self._server.add_generic_rpc_handlers(routes.handlers())
        try:
            self.port: int = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise Unavailable(f"gRPC cannot listen on {host} port {port} ({error}); choose another with the setting grpc_port") from error

    async def start(self) -> None:
        """Take connections."""
        await self._server.start()

    async def stop(self, drain_s: float) -> None:
        """Take no more calls, and give those under way so many seconds."""
        self._routes.drain()
        await self._server.stop(drain_s)


def open_server(world: Callable[[], World | None], *, host: str, port: int, message_bytes: int, **parts: Any) -> GrpcServer:
    """Return a server of the worker's parts, as `GrpcRoutes` names them. Raises Unavailable."""
    return GrpcServer(GrpcRoutes(world=world, **parts), host=host, port=port, message_bytes=message_bytes)


def _options(message_bytes: int) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", -1),
    )
