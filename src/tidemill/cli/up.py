"""`tidemill up`: serve a workspace until stopped."""

from pathlib import Path

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
PROBE_S = 0.5  # the port is open before anybody answers on it: look now and then whether somebody ever will


@click.command()
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Workspace folder. Default: the one you are in.")
@click.option("--host", help="Address to bind to. Anything but loopback needs authentication.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of dashboard and API. 0 picks a free one.")
@click.option("--serve-port", type=click.IntRange(0, 65535), help="Port of predictions. 0 picks a free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Port of predictions over gRPC. 0 picks a free one. Default: none.")
@click.option("--serve-workers", type=click.IntRange(1), help="Number of serving workers.")
@click.option("--supervised", is_flag=True, hidden=True, help="End when standard input ends: whoever started this is gone then.")
@click.option("--clock", help="The time of the world: system, or simulated:FILE (relative to the state folder).")
@json_option
def up(
    home: Path | None,
    host: str | None,
    port: int | None,
    serve_port: int | None,
    grpc_port: int | None,
    serve_workers: int | None,
    clock: str | None,
    supervised: bool,
    as_json: bool,
) -> int:
    """Serve a workspace: dashboard and API, predictions, controller, job workers. Ctrl-C or SIGTERM ends it cleanly."""
    folder = (home or find_home()).resolve()
    ports = {"port": port, "serve_port": serve_port, "grpc_port": grpc_port}
    arguments = {"host": host, **ports, "serve_workers": serve_workers, "clock": clock}
    loaded = load_settings(folder, arguments=arguments)
    supervisor = Supervisor(folder, loaded, say=lambda line: click.echo(line, err=True))
    on_stop(supervisor.stop)
    if supervised:
        follow_supervisor()
    try:
        supervisor.start()
        _await_ready(supervisor, supervisor.url)
        # Only now: workers that serve find published who has to show a key.
        supervisor.serve()
        _await_ready(supervisor, supervisor.serve_url)
        running = supervisor.complete()
        over_grpc = f"predictions, gRPC  {running.grpc_address}\n" if running.grpc_address else ""
        text = f"dashboard and API  {running.url}\npredictions        {running.serve_url}\n{over_grpc}stop with Ctrl-C"
        if not supervisor.stopping.is_set():
            click.echo(encode_text(running) if as_json else text)
        supervisor.run()
    finally:
        supervisor.close()
    return 0


def _await_ready(supervisor: Supervisor, url: str) -> None:
    transport = HttpTransport(url, attempts=1, read_s=PROBE_S)
    if not wait_until(lambda: supervisor.given_up() or _answers(transport), timeout_s=READY_S, every_s=0.02):
        raise Unavailable(f"the server did not become ready within {READY_S:.0f} s; see why in {supervisor.state / 'logs'}")


def _answers(transport: HttpTransport) -> bool:
    try:
        return transport.request("GET", "/readyz").status == 200
    except Unavailable:
        return False
