"""Requests that came together are scored together, and each gets its own answer."""

import asyncio
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.plant import Plant, python_spec
from tidemill.core.clock import SystemClock, elapsed
from tidemill.core.errors import TidemillError
from tidemill.core.signature import Column
from tidemill.core.values import replace
from tidemill.serving.background import Commit
from tidemill.serving.block import Block
from tidemill.serving.config import EndpointOptions
from tidemill.serving.history import count_failures, inputs, read_predictions
from tidemill.serving.journal import EndpointJournal
from tidemill.serving.metrics import Metrics
from tidemill.serving.models import LoadedModel, LoadedVariant
from tidemill.serving.predict import Answered, Ask, Endpoint
from tidemill.serving.problems import TooBusy
from tidemill.serving.rows import Rows
from tidemill.serving.runtimes.runtime import Columns, ModelFailed, Scores
from tidemill.serving.turns import Turns

MOMENT = datetime(2026, 5, 1, tzinfo=UTC)
SPEC = replace(python_spec(inputs=(Column(name="a", kind="double"), Column(name="b", kind="double"))), runtime="onnx")


class Sums:
    """A model: a + b; it fails where a is 99. `calls` tells how many rows it was given at once."""

    def __init__(self, *, waits: bool = False) -> None:
        self.calls: list[int] = []
        self.waits = waits
        self.hold: Callable[[], None] = lambda: None

    def run(self, columns: Columns, rows: int) -> Scores:
        self.calls.append(rows)
        self.hold()
        a, b = np.array(columns["a"], dtype=np.float64), np.array(columns["b"], dtype=np.float64)
        if (a == 99).any():
            raise ModelFailed("sums@1", "it does not like 99")
        return a + b


class Desk:
    """Turns with one endpoint, in this process."""

    def __init__(self, tmp_path: Path, model: Sums, *, limit: int = 100, deadline_s: float = 10.0, cached_rows: int = 0) -> None:
        plant, metrics = Plant(tmp_path / "home"), Metrics(tmp_path, 0)
        config = plant.endpoint(options=EndpointOptions(cached_rows=cached_rows))
        self.state, self.model = plant.state, model
        variants = {"champion": LoadedVariant(config.variants[0], LoadedModel(SPEC, model, 0))}
        self.journal = EndpointJournal(plant.state, "delay", "0")
        self.endpoint = Endpoint(config, variants, online=None, journal=self.journal, clock=SystemClock(), metrics=metrics, together_s=1.0)
        self.outcomes: dict[str, Answered | TidemillError] = {}
        loop = asyncio.get_running_loop()
        self.commit = Commit(loop, metrics, to_disk=False)
        self.turns = Turns(loop, self.commit, waiting_limit=limit, deadline_s=deadline_s)

    def ask(
        self, name: str, *rows: tuple[float, float], block: bool = False, left: Callable[[], bool] = lambda: False, **more: Any
    ) -> None:
        names = ("a", "b")
        columns: Any = Block(names, np.array(rows)) if block else {each: [pair[at] for pair in rows] for at, each in enumerate(names)}
        asked = Rows(columns, len(rows), more.get("ids"), more.get("at"))
        trace = more.get("trace", "")
        started, until = elapsed() - more.get("ago", 0.0), more.get("until", inf)
        self.turns.add(self.endpoint, Ask(asked, started, trace, left, lambda found: self.outcomes.update({name: found}), until))

    async def settled(self, count: int) -> dict[str, Any]:
        """Return scores, or the sentence of the error, once so many were answered."""
        end = elapsed() + 10
        while len(self.outcomes) < count and elapsed() < end:
            await asyncio.sleep(0.002)
        self.journal.close()
        return {name: found.scores if isinstance(found, Answered) else str(found) for name, found in self.outcomes.items()}


def learned(desk: Desk) -> None:
    """Let the endpoint know that rows cost nothing and requests do."""
    for rows in (1, 2, 4, 8, 16, 32, 64) * 4:
        desk.endpoint.pace.saw(rows, 1e-4)


@pytest.mark.parametrize("block", [False, True], ids=["columns", "block"])
def test_what_comes_in_one_turn_is_scored_at_once(tmp_path: Path, block: bool) -> None:
    async def main() -> None:
        desk = Desk(tmp_path, Sums())
        learned(desk)
        for number in range(10):
            desk.ask(str(number), *[(float(number), each / 8) for each in range(1 + number % 3)], block=block, trace=f"{number:032d}")
        answers = await desk.settled(10)
        assert desk.model.calls == [19]
        for number in range(10):
            assert answers[str(number)] == [number + each / 8 for each in range(1 + number % 3)]
        ids = [found.ids for found in desk.outcomes.values() if isinstance(found, Answered)]
        assert len({unit for each in ids for unit in each}) == 19
        journal = read_predictions(desk.state, "delay")
        told = {
            unit: (score, trace)
            for unit, score, trace in zip(*(journal[name].to_pylist() for name in ("id", "score", "trace_id")), strict=True)
        }
        assert told == {
            unit: (score, f"{int(name):032d}")
            for name, found in desk.outcomes.items()
            if isinstance(found, Answered)
            for unit, score in zip(found.ids, found.scores, strict=True)
        }
        assert all(0 <= each < 60_000 for each in journal["latency_ms"].to_pylist())
        assert sorted(inputs(journal)["a"].to_pylist()) == sorted(float(number) for number in range(10) for _ in range(1 + number % 3))

    asyncio.run(main())


def test_what_is_about_another_moment_or_in_another_form_goes_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        desk = Desk(tmp_path, Sums())
        learned(desk)
        desk.ask("now", (1, 1))
        desk.ask("then", (2, 2), at=MOMENT)
        desk.ask("block", (3, 3), block=True)
        desk.ask("again", (4, 4), ids=["mine"])
        assert await desk.settled(4) == {"now": [2.0], "then": [4.0], "block": [6.0], "again": [8.0]}
        assert desk.model.calls == [2, 1, 1]
        journal = read_predictions(desk.state, "delay")
        assert journal.filter(journal["id"].to_numpy(zero_copy_only=False) == "mine")["score"].to_pylist() == [8.0]
        assert journal["at"].to_pylist()[0] == MOMENT

    asyncio.run(main())


@pytest.mark.parametrize("waits", [False, True], ids=["here", "elsewhere"])
def test_nobody_fails_for_the_rows_of_another(tmp_path: Path, waits: bool) -> None:
    async def main() -> None:
        desk = Desk(tmp_path, Sums(waits=waits))
        learned(desk)
        desk.ask("first", (1, 1))
        desk.ask("bad", (99, 1), (1, 1))
        desk.ask("last", (2, 1))
        answers = await desk.settled(3)
        assert (answers["first"], answers["last"]) == ([2.0], [3.0])
        assert "model sums@1 failed: it does not like 99" in answers["bad"]
        assert count_failures(desk.state, "delay", "champion") == 2, "the rows of the request that failed, once"
        assert read_predictions(desk.state, "delay").num_rows == 2

    asyncio.run(main())


def test_who_waits_for_a_busy_model_is_scored_with_the_others_that_wait(tmp_path: Path) -> None:
    async def main() -> None:
        desk = Desk(tmp_path, Sums(waits=True), limit=10)
        learned(desk)
        gone = False
        desk.model.hold = partial(time.sleep, 0.1)
        desk.ask("first", (0, 1))
        for number in range(6):
            desk.ask(str(number), (float(number), 1))
        desk.ask("late", (7, 1), ago=30.0)
        desk.ask("left", (8, 1), left=lambda: gone)
        desk.ask("hasty", (8, 1), until=elapsed() + 0.01)
        with pytest.raises(TooBusy, match="10 requests wait for its model already"):
            desk.ask("too many", (9, 1))
        gone = True
        answers = await desk.settled(10)
        assert "the deadline passed" in answers.pop("hasty")
        assert desk.model.calls == [1, 6]
        assert "nothing was predicted" in answers.pop("left")
        assert "waited 10 s for its model" in answers.pop("late")
        assert answers == {"first": [1.0], **{str(number): [number + 1.0] for number in range(6)}}
        assert read_predictions(desk.state, "delay").num_rows == 7, "nothing is kept of who has left"
        desk.turns.keep(())

    asyncio.run(main())


@pytest.mark.parametrize("waits", [False, True], ids=["here", "elsewhere"])
@pytest.mark.parametrize("block", [False, True], ids=["columns", "block"])
def test_what_was_said_of_a_row_is_said_again(tmp_path: Path, block: bool, waits: bool) -> None:
    async def main() -> None:
        desk = Desk(tmp_path, Sums(waits=waits), cached_rows=4)
        desk.ask("first", (1, 1), (2, 2), block=block)
        await desk.settled(1)
        desk.ask("again", (2, 2), (1, 1), block=block)
        assert await desk.settled(2) == {"first": [2.0, 4.0], "again": [4.0, 2.0]}
        assert desk.model.calls == [2]
        desk.ask("partly", (1, 1), (3, 3), (2, 2), (4, 4), block=block)
        desk.ask("other", (1, 2), block=block)
        assert (await desk.settled(4))["partly"] == [2.0, 6.0, 4.0, 8.0]
        assert desk.model.calls == [2, 2, 1]
        # Four are kept: (1, 1) was asked for the longest ago.
        desk.ask("gone", (1, 1), (4, 4), block=block)
        assert (await desk.settled(5))["gone"] == [2.0, 8.0]
        assert desk.model.calls == [2, 2, 1, 1]
        assert read_predictions(desk.state, "delay").num_rows == 11, "each is journaled, whoever said it"

    asyncio.run(main())


def test_code_of_a_bundle_is_given_the_rows_of_one_request(tmp_path: Path) -> None:
    """It might say something of the rows as a whole."""
    plant = Plant(tmp_path / "home", trusted_runtimes=["python"])
    share = python_spec(inputs=(Column(name="a", kind="double"),))
    body = "return [each / sum(columns['a']) for each in columns['a']]"
    plant.publish(plant.endpoint(plant.variant(spec=share, body=body)))
    with plant.worker() as caller:
        body = b'{"rows":[{"a":1.0},{"a":3.0}]}'
        with socket.create_connection(("127.0.0.1", caller.port), timeout=20) as line:
            line.sendall((b"POST /predict/delay HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)) * 8)
            told = b""
            while told.count(b"HTTP/1.1 200") < 8 or not told.endswith(b"}"):
                told += line.recv(65536)
        assert told.count(b'"score":0.25') == told.count(b'"score":0.75') == 8
