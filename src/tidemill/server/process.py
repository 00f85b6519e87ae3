"""The control plane's process: `python -m tidemill.server.process`."""

import argparse
import asyncio
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn

from tidemill.core.errors import TidemillError
from tidemill.core.process import follow_supervisor, on_stop, start_logging
from tidemill.deploy.publish import publish
from tidemill.govern.workspace import init_workspace, open_workspace
from tidemill.server.app import create_app
from tidemill.server.front import Front
from tidemill.server.mlflow.desk import Desk

LOG = logging.getLogger("tidemill.control")


class Server(uvicorn.Server):
    """uvicorn's server, which ends with exit code 0 when told to stop: its own way is to die of the signal after draining."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        on_stop(self._stop)
        yield

    def _stop(self) -> None:
        self.should_exit = True


def main(argv: list[str] | None = None) -> int:
    """Serve a workspace on a socket that was handed down (--fd), or on the settings' host and port, until SIGTERM; then drain."""
    parser = argparse.ArgumentParser(prog="tidemill.server.process", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="workspace folder")
    parser.add_argument("--fd", type=int, help="an open listening socket")
    parser.add_argument("--supervised", action="store_true", help="end when standard input does")
    parser.add_argument("--prepare", action="store_true", help="make or migrate the workspace first, and publish what is served")
    options = parser.parse_args(argv)
    try:
        if options.prepare:
            ws = init_workspace(options.home)
            publish(ws)
        else:
            ws = open_workspace(options.home)
    except TidemillError as error:
        sys.stderr.write(f"tidemill: {error}\n")
        return 1
    start_logging(ws.settings.log_level, form=ws.settings.log_format)
    if options.supervised:
        follow_supervisor()
    settings = ws.settings
    app = create_app(ws, hosts=(settings.host,))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=cast("type[asyncio.Protocol]", partial(Front, desk=Desk(app, ws.catalog))),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.drain_s,
    )
    sockets = [socket.socket(fileno=options.fd)] if options.fd is not None else None
    LOG.info("control plane of %s starts", ws.home)
    try:
        Server(config).run(sockets=sockets)
    finally:
        ws.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
