"""Walks over the graph of what came of what."""

from tidemill.catalog.lineage import link, walk
from tidemill.govern.workspace import Workspace


def draw(ws: Workspace, *edges: tuple[str, str]) -> None:
    with ws.catalog.transaction() as tx:
        for source, target in edges:
            link(tx, ws.project, source=source, target=target, relation="made", at=ws.clock.now())


def test_upstream_and_downstream_reach_all_that_is_connected_once(any_ws: Workspace) -> None:
    draw(any_ws, ("data", "run"), ("code", "run"), ("run", "model"), ("model", "endpoint"), ("data", "report"), ("run", "model"))
    with any_ws.catalog.reading() as tx:
        up = [(edge.source, edge.target) for edge in walk(tx, any_ws.project, "endpoint")]
        down = {edge.target for edge in walk(tx, any_ws.project, "data", direction="downstream")}
    assert up == [("model", "endpoint"), ("run", "model"), ("code", "run"), ("data", "run")]
    assert down == {"run", "model", "endpoint", "report"}


def test_a_circle_ends(any_ws: Workspace) -> None:
    draw(any_ws, ("a", "b"), ("b", "a"))
    with any_ws.catalog.reading() as tx:
        assert {(e.source, e.target) for e in walk(tx, any_ws.project, "a")} == {("a", "b"), ("b", "a")}
