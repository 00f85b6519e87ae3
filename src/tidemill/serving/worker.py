"""One serving worker: a process that loads what the config names, answers on one port, and swaps to a new config without a pause.

    python -m tidemill.serving.worker --home DIR --index 0 --fd 5          a port that the supervisor holds
    python -m tidemill.serving.worker --home DIR --index 0 --host 127.0.0.1 --port 7701

It needs neither the control plane nor the catalog.
"""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.core.clock import EPOCH, open_clock
from tidemill.core.codec import encode_text
from tidemill.core.errors import ExtraMissing, TidemillError
from tidemill.core.process import follow_supervisor, start_logging
from tidemill.core.settings import STATE_NAME, Settings, load_settings
from tidemill.serving.acceptor import Acceptor, Tally
from tidemill.serving.background import Commit, Exposition, Shadows
from tidemill.serving.config import (
    EndpointConfig,
    ServingConfig,
    WorkerState,
    config_path,
    read_config,
    read_states,
    write_atomic,
    write_state,
)
from tidemill.serving.http import HttpServer, Limits
from tidemill.serving.journal import EndpointJournal, JournalWriter, LabelsJournal, pushes_folder
from tidemill.serving.memory import Memory
from tidemill.serving.metrics import Metrics, process_memory_bytes
from tidemill.serving.models import LoadedModel, Models, crumbs_folder
from tidemill.serving.routes import Routes
from tidemill.serving.telemetry import open_telemetry
from tidemill.serving.turns import Turns
from tidemill.serving.world import Builder, World
from tidemill.store.online import OnlineStore
from tidemill.store.table import open_online, open_store

LOG = logging.getLogger(__name__)
WATCH_S = 0.02
METRICS_S = 2.0
BACKLOG = 1024
LAST_GOOD = "last-good.json"
GRPC = "tidemill.serving.grpc.server:open_server"  # loaded by workers that were given a port for it: it costs memory and time


class Worker:
    """The parts of one worker and how they come and go."""

    def __init__(self, home: Path, settings: Settings, *, index: int, shared: dict[str, LoadedModel] | None = None) -> None:
        """shared: models that are in memory already, by bundle; the worker takes them out of there."""
        self.state, self.settings, self.index = home / STATE_NAME, settings, index
        self.shared = shared if shared is not None else {}
        self.clock = open_clock(settings.clock, base=self.state)
        self.metrics = Metrics(self.state / "run", index)
        self.telemetry = open_telemetry(settings.traces, self.metrics, ratio=settings.traces_ratio, instance=f"serve-{index}")
        self.journals: dict[str, EndpointJournal] = {}
        self.labels_journal = LabelsJournal(self.state, str(index))
        self.pushes: dict[str, JournalWriter] = {}
        self.online: OnlineStore | None = None
        models = open_models(self.state, settings, crumbs=crumbs_folder(self.state) / str(index), known=self.shared)
        self.builder = Builder(
            models, clock=self.clock, metrics=self.metrics, online=self._open_online, journal=self._journal, pushes=self._push_journal,
            together_s=settings.together_ms / 1e3, traced=self.telemetry is not None,
        )  # fmt: skip
        self.memory = Memory(
            self.builder,
            self.metrics,
            budget_bytes=settings.serve_memory_mb << 20 if settings.serve_memory_mb is not None else None,
            pinned=settings.serve_pinned,
            waiting_limit=settings.waiting_limit,
            deadline_s=settings.model_deadline_s,
            show=self._show,
            busy=lambda key: self.turns.busy(key),
        )
        self.opening = threading.Lock()
        self.port = 0
        self.grpc_port: int | None = None
        self.refused = ""
        self.seen: tuple[int, int, int] | None = None
        self.good: ServingConfig | None = None
        self.changed = False
        self.stopping = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        """Serve on a listening socket until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        self.port = listener.getsockname()[1]
        np.seterr(all="ignore")  # numbers that single precision cannot hold become infinite, and are refused as such
        commit = Commit(loop, self.metrics, to_disk=self.settings.journal_sync == "disk")
        shadows = Shadows(loop, self.metrics, commit)
        self.turns = Turns(loop, commit, waiting_limit=self.settings.waiting_limit, deadline_s=self.settings.model_deadline_s)
        exposition = Exposition(loop, lambda accept: self.metrics.exposition(read_states(self.state), accept=accept))
        self.routes = Routes(
            clock=self.clock, metrics=self.metrics, labels_journal=self.labels_journal, shadow=shadows.submit, held=commit,
            turns=self.turns, exposition=exposition, telemetry=self.telemetry, slow_ms=self.settings.slow_request_ms,
        )  # fmt: skip
        http = HttpServer(self.routes, self.routes.refuse, Limits(body_bytes=self.settings.body_limit_bytes))
        # Before the first connection is taken: callers of a port that the supervisor holds wait in its queue, and none is refused.
        await self._adopt()
        if self.routes.world is None:
            await self._fall_back()
        self.shared.clear()  # what is served holds them, as long as it is
        self._keep_good()
        grpc = self._open_grpc(listener.getsockname()[0], shadow=shadows.submit, held=commit, turns=self.turns, telemetry=self.telemetry)
        if grpc is not None:
            await grpc.start()
            self.grpc_port = grpc.port
        door: Acceptor | asyncio.Server
        if self.settings.serve_workers > 1:
            door = Acceptor(loop, listener, http, Tally(self.state / "run" / "connections", self.index))
        else:
            door = await loop.create_server(http.connect, sock=listener, backlog=BACKLOG)
        self._tell()
        LOG.info("serving worker %s answers on port %s", self.index, self.port)
        chores = [loop.create_task(self._watch(door)), loop.create_task(self._save_metrics(http, exposition))]
        await self.stopping.wait()
        for chore in chores:
            chore.cancel()
        door.close()
        http.drain()
        ended = loop.create_task(grpc.stop(self.settings.drain_s)) if grpc is not None else None
        deadline = loop.time() + self.settings.drain_s
        while http.connections and loop.time() < deadline:
            await asyncio.sleep(0.01)
        http.close()
        if ended is not None:
            await ended
        await loop.run_in_executor(None, shadows.close, max(1.0, deadline - loop.time()))
        await asyncio.sleep(0.01)  # the last records of shadows
        if self.telemetry is not None:
            await loop.run_in_executor(None, self.telemetry.close, max(1.0, deadline - loop.time()))
        self.turns.keep(())
        commit.close()
        self.memory.close()
        self.close()

    def close(self) -> None:
        """Flush journals and leave."""
        writers = [*self.pushes.values(), self.labels_journal]
        for close in (*(journal.close for journal in self.journals.values()), *(writer.close for writer in writers)):
            with contextlib.suppress(OSError):
                close()
        if self.online is not None:
            self.online.close()
        state = read_states(self.state).get(self.index)
        if state is not None and state.pid == os.getpid():  # else the next one is there already
            (self.state / "run" / f"serve-{self.index}.json").unlink(missing_ok=True)
        LOG.info("serving worker %s has ended", self.index)

    async def _watch(self, door: Acceptor | asyncio.Server) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            if isinstance(door, Acceptor):
                door.tell()
            if _stamp(config_path(self.state)) != self.seen:
                await self._adopt()
                self.changed = True
            self.memory.look()
            if self.changed:
                self.changed = False
                self._keep_good()
                self._tell()

    async def _adopt(self) -> None:
        """Serve the published config, or as much of it as can be; go on with what is served if it is none, and say why."""
        path = config_path(self.state)
        self.seen = _stamp(path)
        try:
            data = path.read_bytes() if self.seen is not None else None
            if data is None and (self.routes.world is not None or (self.state / "serving" / LAST_GOOD).exists()):
                self._refuse("the serving config has gone; publish it again")
                return
            config = read_config(data) if data is not None else ServingConfig(generation=0, published_at=EPOCH)
        except (TidemillError, OSError) as error:
            self._refuse(str(error))
            return
        await self._serve(config, older=self._last_good() if self.routes.world is None else None)
        self.refused = ""

    async def _fall_back(self) -> None:
        """Serve what was served before this process began, since what is published is no config."""
        config = self._last_good()
        if config is not None:
            await self._serve(config)

    def _last_good(self) -> ServingConfig | None:
        try:
            return read_config((self.state / "serving" / LAST_GOOD).read_bytes())
        except FileNotFoundError:
            return None
        except (TidemillError, OSError) as error:
            LOG.error("no earlier config is served in place of what cannot be: %s", error)
            return None

    async def _serve(self, config: ServingConfig, *, older: ServingConfig | None = None) -> None:
        await self.memory.adopt(config, older=older)
        self.metrics.generation.set(config.generation)
        for key in set(self.journals) - {endpoint.key for endpoint in config.endpoints}:
            # Behind what was answered already and is written in a moment.
            asyncio.get_running_loop().call_soon(self.journals.pop(key).close)
        gc.collect()
        gc.freeze()  # models and schemas live as long as the config: the collector need not look at them again
        LOG.info("config %s is served: %s", config.generation, ", ".join(endpoint.key for endpoint in config.endpoints) or "no endpoint")

    def _show(self, world: World) -> None:
        """Serve a world from the next request on."""
        self.routes.world = world
        self.turns.keep(world.endpoints)
        self.changed = True

    def _keep_good(self) -> None:
        """Have what can be served on the disk, for the next process."""
        world = self.routes.world
        if world is None or not world.config.generation or (good := self.memory.good(world.config)) == self.good:
            return
        try:
            write_atomic(self.state / "serving" / LAST_GOOD, encode_text(good, indent=2).encode())
        except OSError as error:
            LOG.error("what is served cannot be written down for the next process: %s", error)
        self.good = good

    def _refuse(self, reason: str) -> None:
        self.refused = reason
        self.metrics.refused.inc()
        LOG.error("what is published is not served: %s", reason)

    def _tell(self) -> None:
        world = self.routes.world
        state = WorkerState(
            pid=os.getpid(),
            port=self.port,
            grpc_port=self.grpc_port,
            generation=world.config.generation if world is not None else -1,
            ready=world is not None and world.ready,
            refused=self.refused,
            troubles=self.memory.troubles(),
        )
        try:
            write_state(self.state, self.index, state)
        except OSError as error:
            LOG.error("how this worker is cannot be written down: %s", error)

    async def _save_metrics(self, http: HttpServer, exposition: Exposition) -> None:
        while True:
            self.metrics.connections.set(len(http.connections))
            self.metrics.memory.set(process_memory_bytes())
            if self.settings.serve_workers > 1:
                await exposition.beside(self.metrics.save)
            await asyncio.sleep(METRICS_S)

    def _open_grpc(self, host: str, **parts: Any) -> Any:
        """Return the gRPC server, None when no port is set for it. Raises ExtraMissing, Unavailable."""
        port = self.settings.grpc_port
        if port is None:
            return None
        module, _, name = GRPC.partition(":")
        try:
            open_server = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            raise ExtraMissing(error.name or "grpcio", "grpc") from error
        return open_server(
            lambda: self.routes.world, host=host, port=port, message_bytes=self.settings.body_limit_bytes,
            clock=self.clock, metrics=self.metrics, **parts,
        )  # fmt: skip

    def _journal(self, endpoint: EndpointConfig) -> EndpointJournal:
        with self.opening:
            if endpoint.key not in self.journals:
                self.journals[endpoint.key] = EndpointJournal(self.state, endpoint.key, str(self.index))
            return self.journals[endpoint.key]

    def _push_journal(self, source: str) -> JournalWriter:
        with self.opening:
            if source not in self.pushes:
                self.pushes[source] = JournalWriter(pushes_folder(self.state, source), str(self.index))
            return self.pushes[source]

    def _open_online(self) -> OnlineStore:
        with self.opening:
            if self.online is None:
                self.online = open_online(self.settings.online, base=self.state)
            return self.online


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _listen(fd: int | None, host: str, port: int) -> socket.socket:
    if fd is not None:
        listener = socket.socket(fileno=fd)
    else:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


def open_models(state: Path, settings: Settings, *, crumbs: Path, known: Mapping[str, LoadedModel] | None = None) -> Models:
    """Return the models of a workspace. known: those that are in memory already, by bundle."""
    return Models(
        lambda: open_store(settings.objects, cache=state / "cache" / "objects", base=state),
        state / "serving" / "bundles",
        trusted=settings.trusted_runtimes,
        deadline_s=settings.model_deadline_s,
        crumbs=crumbs,
        weigh=settings.serve_memory_mb is not None,
        known=known or {},
    )


def work(home: Path, settings: Settings, *, index: int, fd: int, shared: dict[str, LoadedModel]) -> int:
    """Be a worker that a nursery has forked, on the socket that it holds, until SIGTERM; return its exit code."""
    follow_supervisor()
    try:
        _run(Worker(home, settings, index=index, shared=shared), _listen(os.dup(fd), "", 0))
    except (TidemillError, OSError) as error:
        sys.stderr.write(f"serving worker {index}: {error}\n")
        return 1
    return 0


def _run(made: Worker, listener: socket.socket) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(made.run(listener))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until SIGTERM; return its exit code."""
    parser = argparse.ArgumentParser(prog="tidemill.serving.worker")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--fd", type=int)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--supervised", action="store_true")
    options = parser.parse_args(argv)
    try:
        settings = load_settings(options.home.resolve()).settings
        start_logging(settings.log_level, form=settings.log_format)
        if options.supervised:
            follow_supervisor()
        listener = _listen(options.fd, options.host or settings.host, settings.serve_port if options.port is None else options.port)
        _run(Worker(options.home.resolve(), settings, index=options.index), listener)
    except (TidemillError, OSError) as error:
        sys.stderr.write(f"serving worker {options.index}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
