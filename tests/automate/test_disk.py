"""What takes how much disk: what two share is counted with each, and once in the store."""

import pytest

from tests import world
from tidemill.automate.disk import disk_use
from tidemill.datasets.versions import add, append
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace, create_project
from tidemill.tracking.batches import log_metrics
from tidemill.tracking.runs import delete_run, log_artifact, start_run


def test_owners_are_told_with_what_they_have(any_ws: Workspace) -> None:
    ws = any_ws
    for name in ("one", "two"):
        run = start_run(ws, "delay", name=name)
        log_artifact(ws, run.id, "shared.bin", b"s" * 50_000)
        log_artifact(ws, run.id, "own.bin", name.encode() * 1000)
        log_metrics(ws, run.id, {"loss": 0.5})
    delete_run(ws, run.id)
    add(ws, "flights", world.flights(5000))
    append(ws, "flights", world.flights(5000))
    version = world.model(ws, "late")
    create_project(ws, "north")
    log_artifact(ws.acting(ws.actor, "north"), start_run(ws.acting(ws.actor, "north"), "delay", name="cold").id, "x", b"x" * 60_000)
    found = disk_use(ws)
    sizes = {owner.name: owner.size_bytes for owner in found.owners if owner.kind == "runs"}
    assert next(iter(sizes)).startswith("north: delay cold")
    assert sorted(size // 1000 for size in sizes.values()) == [53, 53, 60]
    assert any("in the trash" in name for name in sizes)
    (flights,) = [owner for owner in found.owners if owner.kind == "datasets"]
    assert (flights.name, flights.items) == ("flights", 2)
    (model,) = [owner for owner in found.owners if owner.kind == "models"]
    assert (model.name, model.size_bytes, model.items) == ("late", version.size_bytes, 1)
    assert found.totals["runs"] == sum(sizes.values())
    assert found.objects.size_bytes < found.totals["runs"] + found.totals["datasets"] + found.totals["models"]
    assert found.unused.objects == 0
    loose = b"nobody's"
    ws.objects.put(loose)
    assert (disk_use(ws).unused.objects, disk_use(ws).unused.size_bytes) == (1, len(loose))
    assert len(disk_use(ws, limit=2).owners) == 2
    assert found.free_bytes > 0


def test_only_an_admin_sees_it(ws: Workspace) -> None:
    with pytest.raises(ActionRefused, match=r"tracking\.admin"):
        disk_use(world.acting(ws, "dev", "developer"))
