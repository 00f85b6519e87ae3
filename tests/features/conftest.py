"""A workspace on a manual clock with the events of `worlds` as a dataset."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import world
from tidemill.core.clock import ManualClock
from tidemill.govern.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    workspace = world.init(tmp_path)
    workspace.clock = ManualClock(datetime(2013, 6, 1, tzinfo=UTC))
    yield workspace
    workspace.online.close()
    workspace.close()
