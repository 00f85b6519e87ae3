"""Who is answered when: requests that came in the same turn of the event loop, and such as wait for a busy model, are scored together.

Nobody waits for requests that are still to come. How many go together, `pace` says.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tidemill.core.clock import elapsed
from tidemill.core.errors import TidemillError, Unavailable
from tidemill.serving.background import Commit
from tidemill.serving.predict import Ask, Endpoint, Work
from tidemill.serving.problems import TooBusy, TooLate
from tidemill.serving.rows import kind_of

LOG = logging.getLogger(__name__)


class CallerLeft(Unavailable):
    """A request that waited for a busy model was not scored, since nobody waits for the answer."""

    def __init__(self) -> None:
        super().__init__("the caller ended the connection while the request waited for its model; nothing was predicted")


class Turns:
    """Answers requests; models in processes of their own have a line each. Asks are done once the journal has been told of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, commit: Commit, *, waiting_limit: int, deadline_s: float) -> None:
        """waiting_limit: requests that may wait for one endpoint's model. deadline_s: for how long they may."""
        self._loop, self._commit, self._limit, self._deadline_s = loop, commit, waiting_limit, deadline_s
        self._asked: dict[Endpoint, list[Ask]] = {}
        self._lines: dict[str, _Line] = {}

    def add(self, endpoint: Endpoint, ask: Ask) -> None:
        """Answer a request at the end of this turn, or once its model is free. Raises TooBusy."""
        if endpoint.waits:
            if endpoint.caches and _recalled(endpoint, ask):
                return
            line = self._lines.get(endpoint.config.key)
            if line is None:
                line = self._lines[endpoint.config.key] = _Line(self._loop, self._commit, self._deadline_s)
            line.add(endpoint, ask, limit=self._limit)
            return
        asks = self._asked.get(endpoint)
        if asks is None and endpoint.pace.most(ask.rows.count) <= ask.rows.count:
            _answer(endpoint, [ask])  # it would be alone at the end of the turn, too
            return
        if not self._asked:
            self._loop.call_soon(self._end)  # once every request that has arrived by now was read
        if asks is None:
            self._asked[endpoint] = [ask]
        else:
            asks.append(ask)

    def check(self, endpoint: Endpoint) -> None:
        """Raises TooBusy when as many requests wait for an endpoint as may."""
        if endpoint.waits and (line := self._lines.get(endpoint.config.key)) is not None:
            line.check(endpoint, self._limit)

    def busy(self, key: str) -> bool:
        """Return whether somebody waits for the model of an endpoint."""
        return (line := self._lines.get(key)) is not None and line.busy

    def keep(self, endpoints: Collection[str]) -> None:
        """Let the lines of all other endpoints go, once those who stand in them were answered."""
        for key in self._lines.keys() - set(endpoints):
            self._lines.pop(key).close()

    def _end(self) -> None:
        asked, self._asked = self._asked, {}
        for endpoint, asks in asked.items():
            for group in _groups(endpoint, asks):
                _answer(endpoint, group)
        self._commit.write()


class _Line:
    """Requests that wait for a model in a process of its own; one thread asks it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, commit: Commit, deadline_s: float) -> None:
        self._loop, self._commit, self._deadline_s = loop, commit, deadline_s
        self._waiting: deque[tuple[Endpoint, Ask, bool]] = deque()  # alone: it is not to be scored with others again
        self._under_way = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="waits")
        self._closed = False

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._under_way)

    def check(self, endpoint: Endpoint, limit: int) -> None:
        if (count := len(self._waiting) + self._under_way) >= limit:
            raise TooBusy(endpoint.config.key, count)

    def add(self, endpoint: Endpoint, ask: Ask, *, limit: int) -> None:
        self.check(endpoint, limit)
        self._waiting.append((endpoint, ask, False))
        if not self._under_way:
            self._next()

    def close(self) -> None:
        """Let the thread go once nobody waits any more."""
        self._closed = True
        if not self._under_way:
            self._thread.shutdown(wait=False)

    def _next(self) -> None:
        """Let the model score those who wait, as many as go together."""
        while self._waiting:
            endpoint, asks = self._take()
            if not asks:
                continue
            try:
                work = endpoint.begin(asks)
            except Exception as error:  # noqa: BLE001 (the edge of requests)
                self._failed(endpoint, asks, error)
                continue
            self._under_way = len(asks)
            self._thread.submit(self._run, endpoint, work)
            return
        if self._closed:
            self._thread.shutdown(wait=False)

    def _take(self) -> tuple[Endpoint, list[Ask]]:
        """Return those who are next and go together, without those who have left or waited for too long."""
        endpoint, first, alone = self._waiting[0]
        kind, count = kind_of(first.rows), 1
        if not alone:
            for other, ask, by_itself in list(self._waiting)[1:]:
                if other is not endpoint or by_itself or kind_of(ask.rows) != kind:
                    break
                count += 1
        front = [self._waiting[place][1] for place in range(count)]
        asks: list[Ask] = []
        for ask in endpoint.pace.groups(front, _rows)[0]:
            self._waiting.popleft()
            if ask.left():
                _tell(ask, CallerLeft())
                continue
            now = elapsed()
            if now > ask.until:
                _tell(ask, TooLate())
                continue
            if now - ask.started > self._deadline_s:
                waited = f"the request waited {self._deadline_s:g} s for its model"
                _tell(ask, Unavailable(f"endpoint {endpoint.config.key!r} is busy: {waited}; send it again later"))
                continue
            asks.append(ask)
        return endpoint, asks

    def _run(self, endpoint: Endpoint, work: Work) -> None:
        error: Exception | None = None
        try:
            endpoint.run(work)
        except Exception as failure:  # noqa: BLE001 (the edge of a thread)
            error = failure
        with suppress(RuntimeError):  # the worker has ended
            self._loop.call_soon_threadsafe(self._ended, endpoint, work, error)

    def _ended(self, endpoint: Endpoint, work: Work, error: Exception | None) -> None:
        self._under_way = 0
        if error is None:
            _finish(endpoint, work)
        else:
            if len(work.asks) == 1:
                endpoint.fail(work)
            self._failed(endpoint, work.asks, error)
        self._commit.write()
        self._next()

    def _failed(self, endpoint: Endpoint, asks: Sequence[Ask], error: Exception) -> None:
        if len(asks) == 1:
            _tell(asks[0], _told(endpoint, error))
        else:  # one may have failed for the rows of another: each again by itself
            self._waiting.extendleft((endpoint, ask, True) for ask in reversed(asks))


def _groups(endpoint: Endpoint, asks: list[Ask]) -> list[list[Ask]]:
    """Return requests of one turn as those that are scored together."""
    if len(asks) == 1:
        return [asks]
    kinds: dict[object, list[Ask]] = {}
    for ask in asks:
        kinds.setdefault(kind_of(ask.rows), []).append(ask)
    return [group for alike in kinds.values() for group in endpoint.pace.groups(alike, _rows)]


def _recalled(endpoint: Endpoint, ask: Ask) -> bool:
    """Answer a request by what was said before, if that is known of all its rows; return whether it was."""
    try:
        work = endpoint.begin([ask])
    except TidemillError:
        return False  # its turn will tell
    if not endpoint.recall(work):
        return False
    _finish(endpoint, work)
    return True


def _rows(ask: Ask) -> int:
    return ask.rows.count


def _answer(endpoint: Endpoint, asks: list[Ask]) -> None:
    """Answer requests that go together; if that fails, each by itself, so that nobody fails for the rows of another."""
    work: Work | None = None
    try:
        work = endpoint.begin(asks)
        endpoint.run(work)
    except Exception as error:  # noqa: BLE001 (the edge of requests)
        if len(asks) > 1:
            for ask in asks:
                _answer(endpoint, [ask])
            return
        if work is not None:
            endpoint.fail(work)
        _tell(asks[0], _told(endpoint, error))
    else:
        _finish(endpoint, work)


def _finish(endpoint: Endpoint, work: Work) -> None:
    try:
        answers = endpoint.finish(work)
    except Exception as error:  # noqa: BLE001 (the same)
        for ask in work.asks:
            _tell(ask, _told(endpoint, error))
        return
    for ask, answered in zip(work.asks, answers, strict=True):
        try:
            ask.done(answered)
        except Exception as error:  # noqa: BLE001 (the same)
            _tell(ask, _told(endpoint, error))


def _tell(ask: Ask, error: TidemillError) -> None:
    try:
        ask.done(error)
    except Exception:  # one caller's trouble must not keep the others waiting
        LOG.exception("an answer could not be sent")


def _told(endpoint: Endpoint, error: Exception) -> TidemillError:
    if isinstance(error, TidemillError):
        return error
    LOG.error("endpoint %s failed", endpoint.config.key, exc_info=error, extra={"endpoint": endpoint.config.key})
    return TidemillError(f"the worker failed on this request ({type(error).__name__}); its log has the reason")
