"""Many who change the registry at once: each finds what the one before left, whatever the database."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import pytest

from tests import world
from tidemill.core.clock import open_clock
from tidemill.core.errors import NotFound
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import alias_history, promote
from tidemill.registry.comments import comment, edit_comment
from tidemill.registry.describe import tag_model
from tidemill.registry.environments import environment_history, move
from tidemill.registry.locks import VersionLocked, lock, lock_history, unlock
from tidemill.registry.models import ModelExists, list_models
from tidemill.registry.trash import delete_model, restore_model
from tidemill.registry.versions import list_versions

THREADS, TIMES = 4, 6


@pytest.fixture
def busy(any_ws: Workspace) -> Workspace:
    """Two versions of a model, on a clock that moves."""
    world.model(any_ws)
    world.model(any_ws, slope=2.0)
    any_ws.clock = open_clock("system", base=any_ws.state)
    return any_ws


@pytest.mark.slow
def test_an_alias_and_an_environment_are_in_one_place_at_a_time(busy: Workspace) -> None:
    def change(number: int) -> None:
        for time in range(TIMES):
            version = 1 + (number + time) % 2
            promote(busy, "delay", version, alias="champion")
            move(busy, "delay", version, environment=("dev", "staging")[time % 2], archive=True)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(change, range(THREADS)))
    spans = sorted(alias_history(busy, "delay"), key=lambda span: span.valid_from)
    assert len(spans) > 1
    assert all(before.valid_to == after.valid_from for before, after in pairwise(spans))
    assert all(before.version != after.version for before, after in pairwise(spans))
    assert spans[-1].valid_to is None
    stays = environment_history(busy, "delay")
    assert sorted(stay.version for stay in stays if stay.valid_to is None) == [1, 2]
    assert {v.version: v.environment for v in list_versions(busy, "delay")} == {
        stay.version: stay.environment for stay in stays if stay.valid_to is None
    }


@pytest.mark.slow
def test_a_lock_is_one_persons(busy: Workspace) -> None:
    got: list[int] = []

    def change(number: int) -> None:
        for _ in range(TIMES):
            with suppress(VersionLocked):
                lock(busy, "delay", 1, reason="mine")
                got.append(number)
                unlock(busy, "delay", 1)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(change, range(THREADS)))
    spans = lock_history(busy, "delay")
    assert len(spans) == len(got)
    assert all(span.valid_to is not None for span in spans)


@pytest.mark.slow
def test_nobody_waits_for_one_who_waits_for_him(busy: Workspace) -> None:
    said = comment(busy, "delay", "0").id

    def change(number: int) -> None:
        for time in range(TIMES):
            with suppress(NotFound, ModelExists):  # somebody else has just deleted it, or made another of its name
                match (number + time) % 4:
                    case 0:
                        tag_model(busy, "delay", {"a": str(time)})
                    case 1:
                        world.model(busy, slope=float(3 + number + time))
                    case 2:
                        edit_comment(busy, said, f"{number}/{time}")
                    case _:
                        restore_model(busy, delete_model(busy, "delay").name)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(change, range(THREADS)))
    assert [model.name for model in list_models(busy)] == ["delay"]
    versions = [version.version for version in list_versions(busy, "delay")]
    assert versions == sorted(set(versions), reverse=True)
