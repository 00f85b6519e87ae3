"""The parent of several serving workers: it loads once what all of them serve, and forks them, so that they share that memory.

    python -m tidemill.serving.nursery --home DIR --workers 4 --fd 5

It answers nobody, runs no event loop and starts no thread, since a fork takes one thread along; and it loads only models of runtimes that
are known to go through a fork. Workers load the others, and what comes with a later config, each for itself: so callers notice
nothing. A worker that does not come up after its fork is started anew by itself, sharing nothing.
"""

import argparse
import gc
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tidemill.core.clock import elapsed
from tidemill.core.errors import TidemillError
from tidemill.core.process import Revival, StopSignal, start_logging
from tidemill.core.settings import STATE_NAME, Settings, load_settings
from tidemill.serving.config import VariantConfig, load, read_states
from tidemill.serving.models import LoadedModel, LoadFailed, Models, crumbs_folder
from tidemill.serving.worker import LOG, open_models, work

LOOK_S = 0.05
READY_S = 60.0
CLOSE_S = 1.0  # for a worker that has drained to flush and leave


class _Worker:
    """One worker that is kept alive. forked: whether it shares; one that did not come up so does not try again."""

    def __init__(self, index: int) -> None:
        self.index, self.pid, self.revival = index, 0, Revival()
        self.ready, self.forked = False, True


class Nursery:
    """Keeps the models that workers are forked with, and the workers."""

    def __init__(self, home: Path, settings: Settings, *, workers: int, fd: int) -> None:
        self.home, self.settings, self.fd = home, settings, fd
        self.state = home / STATE_NAME
        self.models: Models = open_models(self.state, settings, crumbs=crumbs_folder(self.state) / "nursery")
        self.kept: dict[str, LoadedModel] = {}
        self.workers = [_Worker(index) for index in range(workers)]
        self.stopping = StopSignal()
        self.watched, self.held = os.pipe()  # workers read the one end and leave when the other has gone

    def run(self) -> None:
        """Keep the workers alive until told to stop, or until the supervisor has gone; then let them finish."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())
        while not self.stopping.is_set():
            self._reap()
            for each in self.workers:
                if not each.pid and each.revival.due():
                    self._start(each)
            there, _, _ = select.select([0], [], [], LOOK_S)
            if there and not os.read(0, 4096):
                self.stopping.set()
        self._stop()

    def load(self) -> None:
        """Have the models of the config that is published, and no others."""
        config = load(self.state)
        wanted = {each.bundle: each for endpoint in config.endpoints for each in endpoint.variants} if config is not None else {}
        self.kept = {bundle: model for bundle, model in self.kept.items() if bundle in wanted}
        if self.settings.serve_memory_mb is not None:
            return  # models come and go in each worker as its callers ask
        for variant in wanted.values():
            if variant.bundle not in self.kept:
                self._keep(variant)

    def _keep(self, variant: VariantConfig) -> None:
        try:
            # To fetch from a bucket takes threads, and a fork takes one along: workers do that.
            found = self.models.load_forkable(variant, fetch=self.settings.objects.startswith("file:"))
        except LoadFailed as error:
            LOG.warning("%s; workers try for themselves", error)
            return
        if found is not None:
            self.kept[variant.bundle] = found

    def _start(self, each: _Worker) -> None:
        """Start a worker: forked with the models that are here, or by itself."""
        each.revival.begin()
        each.ready = False
        log = self.state / "logs" / f"serve-{each.index}.log"
        if not each.forked:
            options = ["--home", str(self.home), "--index", str(each.index), "--fd", str(self.fd), "--supervised"]
            command = [sys.executable, "-m", "tidemill.serving.worker", *options]
            with log.open("ab") as file:
                each.pid = subprocess.Popen(
                    command, stdin=self.watched, stdout=file, stderr=file, pass_fds=(self.fd,), start_new_session=True
                ).pid  # fmt: skip
            return
        try:
            self.load()
        except TidemillError as error:
            LOG.warning("nothing is shared: %s", error)
        gc.collect()
        gc.freeze()  # what is never looked at is never copied
        each.pid = os.fork()
        if each.pid == 0:
            os._exit(self._grow(each.index, log))
        LOG.info("serving worker %s is process %s and shares %s models", each.index, each.pid, len(self.kept))

    def _grow(self, index: int, log: Path) -> int:
        """Be a worker; return its exit code."""
        try:
            os.setsid()
            os.close(self.held)
            os.dup2(self.watched, 0)
            written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            os.dup2(written, 1)
            os.dup2(written, 2)
            kept, self.kept = self.kept, {}
            return work(self.home, self.settings, index=index, fd=self.fd, shared=kept)
        except BaseException:  # noqa: BLE001 (the edge of a process)
            traceback.print_exc()
            return 1

    def _reap(self) -> None:
        """See who has ended, and who does not come up."""
        states = read_states(self.state)
        for each in self.workers:
            if not each.pid:
                continue
            if _ended(each.pid):
                LOG.error("serving worker %s has ended", each.index)
                each.pid = 0
                continue
            state = states.get(each.index)
            each.ready = each.ready or (state is not None and state.pid == each.pid)
            if not each.ready and each.forked and elapsed() - each.revival.started_s > READY_S:
                LOG.error("serving worker %s did not come up in %.0f s after its fork; it is started by itself", each.index, READY_S)
                os.kill(each.pid, signal.SIGKILL)
                each.forked = False

    def _stop(self) -> None:
        for each in self.workers:
            if each.pid:
                os.kill(each.pid, signal.SIGTERM)
        deadline = elapsed() + self.settings.drain_s + CLOSE_S
        left = [each.pid for each in self.workers if each.pid]
        while left and elapsed() < deadline:
            left = [pid for pid in left if not _ended(pid)]
            select.select([], [], [], 0.01)
        for pid in left:
            os.kill(pid, signal.SIGKILL)


def _ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(prog="tidemill.serving.nursery")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--supervised", action="store_true")
    options = parser.parse_args(argv)
    try:
        settings = load_settings(options.home.resolve()).settings
        start_logging(settings.log_level, form=settings.log_format)
        Nursery(options.home.resolve(), settings, workers=options.workers, fd=options.fd).run()
    except (TidemillError, OSError) as error:
        sys.stderr.write(f"serving nursery: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
