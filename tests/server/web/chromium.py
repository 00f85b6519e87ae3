"""A real Chromium, and the dashboard served to it on a socket."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn

from tidemill.core.clock import wait_until
from tidemill.govern.workspace import Workspace
from tidemill.server.app import create_app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None) or next(
    (str(path) for path in [Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")] if path.exists()), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def served(ws: Workspace) -> Iterator[str]:
    """Serve a workspace on a socket from a thread; yields its address."""
    server = uvicorn.Server(uvicorn.Config(create_app(ws), port=0, log_config=None, lifespan="off", ws="none"))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    assert wait_until(lambda: server.started, timeout_s=20)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@contextmanager
def browser() -> Iterator[Any]:
    """Start the browser; skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome is installed")
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()
