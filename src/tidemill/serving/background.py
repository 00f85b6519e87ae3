"""What a worker does beside answering: shadows see rows after the answer is out, answers that wait for the disk are flushed in groups."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tidemill.core.clock import elapsed
from tidemill.core.errors import TidemillError
from tidemill.serving.http import Done, Reply
from tidemill.serving.journal import FailureRecord, JournalUnavailable, JournalWriter, PredictionRecord
from tidemill.serving.metrics import Metrics
from tidemill.serving.predict import ShadowWork

LOG = logging.getLogger(__name__)
SHADOWS_WAITING = 2000


class Shadows:
    """Runs shadows in one thread, so that a slow one delays nobody; when too many requests wait, further ones are not shown to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics, commit: "Commit") -> None:
        self._loop, self._metrics, self._commit = loop, metrics, commit
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
            if isinstance(result, PredictionRecord):
                journal.predictions.gather(result, at=result.at)
                self._commit(journal.predictions, lambda refused: self._kept(work, refused))
                continue
            self._failed(work, result.reason)
            try:
                journal.failures.append(result, at=result.at)
            except TidemillError as error:
                self._failed(work, str(error))

    def _kept(self, work: ShadowWork, refused: Reply | TidemillError | None) -> None:
        if refused is not None:
            self._failed(work, str(refused))

    def _failed(self, work: ShadowWork, reason: str) -> None:
        self._metrics.shadow_failures.labels(work.endpoint.config.key).inc()
        LOG.warning("endpoint %s: a shadow did not see a request: %s", work.endpoint.config.key, reason)


class Exposition:
    """Makes the text of counters in one thread: with 200 endpoints it is a megabyte and more, for which no caller is to wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[bytes], tuple[bytes, str]]) -> None:
        """make: returns text and media type, of a caller's Accept header."""
        self._loop, self._make = loop, make
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")

    def __call__(self, accept: bytes, done: Done) -> None:
        """Call back with the reply."""
        self._thread.submit(self._run, accept, done)

    async def beside(self, act: Callable[[], None]) -> None:
        """Do something in the same thread."""
        await self._loop.run_in_executor(self._thread, act)

    def _run(self, accept: bytes, done: Done) -> None:
        outcome: Reply | TidemillError
        try:
            text, media = self._make(accept)
            outcome = Reply(200, text, media=media.encode())
        except Exception as error:
            LOG.exception("the counters cannot be told")
            outcome = TidemillError(f"the counters cannot be told ({type(error).__name__}); the worker's log has the reason")
        with suppress(RuntimeError):  # the worker has ended
            self._loop.call_soon_threadsafe(done, outcome)


class Commit:
    """Brings journals to where they have to be before answers go out, for all at once that wait: written, so that they survive the
    process; with to_disk flushed as well, so that they survive a power cut.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics, *, to_disk: bool) -> None:
        self._loop = loop
        self._took = metrics.journal_seconds.of().add
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal-sync") if to_disk else None
        self._waiting: list[tuple[JournalWriter, Done]] = []
        self._written: list[tuple[JournalWriter, Done]] = []
        self._task: asyncio.Task[None] | None = None

    def __call__(self, journal: JournalWriter, done: Done) -> None:
        """Call done once the journal is where it has to be; with the error when that cannot be."""
        if not self._waiting:
            self._loop.call_soon(self.write)  # once every request that has arrived by now was answered
        self._waiting.append((journal, done))

    @property
    def waiting(self) -> int:
        """Return how many answers wait."""
        return len(self._waiting) + len(self._written) + (self._task is not None)

    def close(self) -> None:
        """Leave the thread."""
        if self._thread is not None:
            self._thread.shutdown()

    def write(self) -> None:
        """Write now for all that wait."""
        group, self._waiting = self._waiting, []
        if not group:
            return
        failed: dict[int, TidemillError] = {}
        before = elapsed()
        for journal in {id(journal): journal for journal, _ in group}.values():
            try:
                journal.flush()
            except JournalUnavailable as error:
                failed[id(journal)] = error
        self._took(elapsed() - before)
        for journal, done in group:
            if self._thread is None or id(journal) in failed:
                _tell(done, failed.get(id(journal)))
            else:
                self._written.append((journal, done))
        if self._written and self._task is None:
            self._task = self._loop.create_task(self._sync())

    async def _sync(self) -> None:
        while self._written:
            group, self._written = self._written, []
            failed: dict[int, TidemillError] = {}
            for journal in {id(journal): journal for journal, _ in group}.values():
                try:
                    await self._loop.run_in_executor(self._thread, journal.sync)
                except JournalUnavailable as error:
                    failed[id(journal)] = error
            for journal, done in group:
                _tell(done, failed.get(id(journal)))
        self._task = None


def _tell(done: Done, error: TidemillError | None) -> None:
    try:
        done(error)
    except Exception:  # one caller's trouble must not keep the others waiting
        LOG.exception("an answer could not be sent")
