"""What a worker does beside answering: shadows see rows after the answer is out, answers that wait for the disk are flushed in groups."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tidemill.core.errors import TidemillError
from tidemill.serving.http import Reply
from tidemill.serving.journal import FailureRecord, JournalUnavailable, JournalWriter, PredictionRecord
from tidemill.serving.metrics import Metrics
from tidemill.serving.predict import ShadowWork
from tidemill.serving.problems import problem_reply

LOG = logging.getLogger(__name__)
SHADOWS_WAITING = 2000


class Shadows:
    """Runs shadows in one thread, so that a slow one delays nobody; when too many requests wait, further ones are not shown to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> None:
        self._loop, self._metrics = loop, metrics
        self._waiting: queue.Queue[ShadowWork | None] = queue.Queue(SHADOWS_WAITING)
        self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)
        self._thread.start()

    def submit(self, work: ShadowWork) -> None:
        """Let the shadows of an endpoint see rows, later."""
        try:
            self._waiting.put_nowait(work)
        except queue.Full:
            self._failed(work, "too many requests wait for it")

    def close(self, timeout_s: float) -> None:
        """Finish what waits, for at most timeout_s. Called beside the event loop, which takes the last records afterwards."""
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            results = work.run()
            try:
                self._loop.call_soon_threadsafe(self._keep, work, results)
            except RuntimeError:
                return  # the worker has ended

    def _keep(self, work: ShadowWork, results: list[PredictionRecord | FailureRecord]) -> None:
        journal = work.endpoint.journal
        for result in results:
            if isinstance(result, FailureRecord):
                self._failed(work, result.reason)
            try:
                (journal.failures if isinstance(result, FailureRecord) else journal.predictions).append(result, at=result.at)
            except TidemillError as error:
                self._failed(work, str(error))

    def _failed(self, work: ShadowWork, reason: str) -> None:
        self._metrics.shadow_failures.labels(work.endpoint.config.key).inc()
        LOG.warning("endpoint %s: a shadow did not see a request: %s", work.endpoint.config.key, reason)


class GroupCommit:
    """Brings journals to the disk before answers go out: one flush for all that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal-sync")
        self._waiting: list[tuple[JournalWriter, Callable[[Reply | None], None]]] = []
        self._task: asyncio.Task[None] | None = None

    def __call__(self, journal: JournalWriter, done: Callable[[Reply | None], None]) -> None:
        """Call done once what the journal holds is on the disk; with the reply to give instead when it cannot be."""
        self._waiting.append((journal, done))
        if self._task is None:
            self._task = self._loop.create_task(self._flush())

    def close(self) -> None:
        self._thread.shutdown()

    async def _flush(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            failed: dict[int, Reply] = {}
            for journal in {id(journal): journal for journal, _ in group}.values():
                try:
                    await self._loop.run_in_executor(self._thread, journal.sync)
                except JournalUnavailable as error:
                    failed[id(journal)] = problem_reply(error)
            for journal, done in group:
                done(failed.get(id(journal)))
        self._task = None
