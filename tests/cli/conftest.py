"""Commands run in this process, as the door runs them, over a workspace that has lived."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import world
from tests.automate.projects import project
from tests.deploy import worlds
from tests.server import lived
from tidemill.automate.controller import tick
from tidemill.automate.rules import OnSchedule, Rule, RunPipeline, set_rule
from tidemill.automate.worker import ask_pipeline
from tidemill.catalog.lineage import link
from tidemill.cli.main import main
from tidemill.govern.keys import issue_key


class Said:
    """What a command said and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command line."""

    def run(*words: object) -> Said:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with everything in it that commands can show. Tests that change something make a workspace of their own."""
    folder = tmp_path_factory.mktemp("cli") / "home"
    with world.workspace(folder) as ws:
        worlds.services(ws)
        run = lived.live(ws, weeks=5)
        with ws.catalog.transaction() as tx:
            link(tx, ws.project, source="service:delay@1", target=f"run:{run}", relation="read", at=ws.clock.now())
        set_rule(ws, Rule(name="monthly", when=OnSchedule(cron="0 6 1 * *"), do=RunPipeline(pipeline="train", params={"n": 1})))
        issue_key(ws, "dashboard", note="for the wall")
        ask_pipeline(ws, project(folder))
        ws.clock = type("Late", (type(ws.clock),), {"simulated": False})(ws.clock.now())
        tick(ws)
    return folder


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """An empty workspace."""
    world.init(tmp_path / "home").close()
    return tmp_path / "home"
