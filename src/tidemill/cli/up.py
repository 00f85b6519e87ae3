"""`tidemill up`: serve a workspace until stopped."""

from contextlib import closing
from pathlib import Path
from typing import Any

import click

from tidemill.cli.show import json_option
from tidemill.client.http import HttpTransport
from tidemill.core.clock import wait_until
from tidemill.core.codec import encode_text
from tidemill.core.errors import Unavailable
from tidemill.core.process import follow_supervisor, on_stop
from tidemill.core.settings import find_home, load_settings
from tidemill.server.supervisor import Supervisor

READY_S = 60.0


@click.command()
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Workspace folder. Default: the one you are in.")
@click.option("--host", help="Address to bind to. Anything but loopback needs authentication.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of dashboard and API. 0 picks a free one.")
@click.option("--serve-port", type=click.IntRange(0, 65535), help="Port of predictions. 0 picks a free one.")
@click.option("--serve-workers", type=click.IntRange(1), help="Number of serving workers.")
@click.option("--supervised", is_flag=True, hidden=True, help="End when standard input ends: whoever started this is gone then.")
@click.option("--clock", help="The time of the world: system, or simulated:FILE (relative to the state folder).")
@json_option
def up(
    home: Path | None,
    host: str | None,
    port: int | None,
    serve_port: int | None,
    serve_workers: int | None,
    clock: str | None,
    supervised: bool,
    as_json: bool,
) -> int:
    """Serve a workspace: dashboard and API, predictions, controller, job workers. Ctrl-C or SIGTERM ends it cleanly."""
    folder = (home or find_home()).resolve()
    arguments = {"host": host, "port": port, "serve_port": serve_port, "serve_workers": serve_workers, "clock": clock}
    loaded = load_settings(folder, arguments=arguments)
    supervisor = Supervisor(folder, loaded, say=lambda line: click.echo(line, err=True))
    on_stop(supervisor.stop)
    if supervised:
        follow_supervisor()
    try:
        supervisor.start()
        _prepare(folder, arguments)
        running = supervisor.open()
        transports = [HttpTransport(url, attempts=1) for url in (running.url, running.serve_url)]
        ready = wait_until(lambda: supervisor.stopping.is_set() or all(map(_answers, transports)), timeout_s=READY_S, every_s=0.05)
        if not ready:
            raise Unavailable(f"the server did not become ready within {READY_S:.0f} s; see why in {supervisor.state / 'logs'}")
        running = supervisor.complete()
        text = f"dashboard and API  {running.url}\npredictions        {running.serve_url}\nstop with Ctrl-C"
        if not supervisor.stopping.is_set():
            click.echo(encode_text(running) if as_json else text)
        supervisor.run()
    finally:
        supervisor.close()
    return 0


def _prepare(folder: Path, arguments: dict[str, Any]) -> None:
    """Make or migrate the workspace, and publish it before any worker serves: keys are asked for from the first moment."""
    from tidemill.deploy.publish import publish  # (half a second, while the control plane loads its own)
    from tidemill.govern.workspace import init_workspace

    with closing(init_workspace(folder, **arguments)) as ws:
        publish(ws)


def _answers(transport: HttpTransport) -> bool:
    try:
        return transport.request("GET", "/readyz").status == 200
    except Unavailable:
        return False
