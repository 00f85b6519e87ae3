"""The desk: MLflow's brief calls, answered on the event loop itself; those that came together are committed together.

A thread for each would cost more than the call: its turn there and back is most of what a caller waits for, beside the disk. So
the loop writes, and while the disk takes one commit the next calls arrive and become the next one. It never waits for another
writer, and not for a slow disk: then calls go to threads, as all others do.
"""

import asyncio
from collections.abc import Callable

from starlette.types import Scope

from tidemill.catalog.catalog import Catalog
from tidemill.catalog.writer import WriterBusy
from tidemill.core.clock import elapsed
from tidemill.server.access import Access
from tidemill.server.mlflow.app import MlflowApp
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.errors import error_answer
from tidemill.server.mlflow.exchange import Asked

TOGETHER_MAX = 64
BRIEF_BYTES = 32 << 10  # of a body: reading and writing more takes more than a moment
SLOW_S = 0.03  # two commits in a row that take longer …
REST_S = 1.0  # … leave the next ones to threads for so long


Send = Callable[[int, bytes], None]  # sends status and body of an answer, on the event loop


class Call(Asked):
    """A brief call, whole once its body is."""

    def __init__(self, endpoint: Endpoint, scope: Scope, access: Access) -> None:
        super().__init__(scope, access)
        self.endpoint, self.body = endpoint, b""


class Desk:
    """Takes calls in and answers them. To be used on one event loop."""

    def __init__(self, app: MlflowApp, catalog: Catalog) -> None:
        self._app, self._catalog = app, catalog
        self._calls: list[tuple[Call, Send]] = []
        self._slow, self._rests_until = 0, 0.0

    def endpoint(self, method: bytes, url: bytes) -> Endpoint | None:
        """Return what answers a brief call, None for any other request."""
        return self._app.brief.get((method, url))

    def accept(self, endpoint: Endpoint, scope: Scope) -> Call:
        """Return the call that the head of a request begins."""
        return Call(endpoint, scope, self._app.access)

    def take(self, call: Call, send: Send) -> None:
        """Answer a call that is whole, soon."""
        if not self._catalog.commits_together or len(call.body) > BRIEF_BYTES or elapsed() < self._rests_until:
            self._leave_to_thread(call, send)
            return
        self._calls.append((call, send))
        if len(self._calls) == 1:
            asyncio.get_running_loop().call_soon(self._answer_all)

    def _answer_all(self) -> None:
        calls, self._calls = self._calls[:TOGETHER_MAX], self._calls[TOGETHER_MAX:]
        if self._calls:
            asyncio.get_running_loop().call_soon(self._answer_all)
        begin = elapsed()
        answers: list[tuple[int, bytes] | None] = []
        try:
            with self._catalog.at_once():
                answers.extend(self._answer(call) for call, _ in calls)
        except WriterBusy:
            answers = [None] * len(calls)
        except Exception as error:  # noqa: BLE001  # the commit failed: all of them are told
            answers = [error_answer(error, method=call.method, path=call.path) for call, _ in calls]
        self._look_at(elapsed() - begin)
        for (call, send), answer in zip(calls, answers, strict=True):
            if answer is None:
                self._leave_to_thread(call, send)
            else:
                send(*answer)

    def _answer(self, call: Call) -> tuple[int, bytes] | None:
        try:
            return self._app.answer(call.endpoint, call, call.body)
        except WriterBusy:
            return None

    def _look_at(self, taken_s: float) -> None:
        self._slow = self._slow + 1 if taken_s > SLOW_S else 0
        if self._slow > 1:
            self._slow, self._rests_until = 0, elapsed() + REST_S

    def _leave_to_thread(self, call: Call, send: Send) -> None:
        loop = asyncio.get_running_loop()

        def answer() -> None:
            loop.call_soon_threadsafe(send, *self._app.answer(call.endpoint, call, call.body))

        self._app.threads.submit(answer)
