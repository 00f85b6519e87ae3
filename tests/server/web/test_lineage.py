"""The picture of a lineage graph: everything on it, left to right, nothing on top of another."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from tests.world import START
from tidemill.catalog.lineage import Edge
from tidemill.server.web.lineage import NODE_HEIGHT, NODE_WIDTH, SHOWN, picture

NAMES = [f"{kind}:{number}" for kind in ("dataset", "run", "model", "endpoint") for number in range(4)]


def edge(source: str, target: str) -> Edge:
    return Edge(source=source, target=target, relation="made", at=START)


def test_a_chain_runs_from_left_to_right() -> None:
    drawn = picture("model:m@1", [edge("run:r", "model:m@1"), edge("dataset:d@1", "run:r"), edge("model:m@1", "endpoint:e")])
    order = [node.name for node in sorted(drawn.nodes, key=lambda node: node.x)]
    assert order == ["dataset:d@1", "run:r", "model:m@1", "endpoint:e"]
    assert [node.name for node in drawn.nodes if node.focus] == ["model:m@1"]
    assert len(drawn.arrows) == 3


def test_checks_and_files_are_left_out_and_counted() -> None:
    drawn = picture("model:m@1", [edge("model:m@1", "check:1"), edge("run:r", "artifact:a"), edge("run:r", "model:m@1")])
    assert {node.name for node in drawn.nodes} == {"model:m@1", "run:r"}
    assert drawn.hidden == 2


def test_a_node_alone_is_a_picture() -> None:
    assert len(picture("model:m@1", []).nodes) == 1


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=40))
def test_any_graph_is_drawn_without_overlap_even_with_circles(pairs: list[tuple[str, str]]) -> None:
    drawn = picture("model:0", [edge(source, target) for source, target in pairs])
    assert len(drawn.nodes) <= SHOWN
    for one, other in combinations(drawn.nodes, 2):
        assert abs(one.x - other.x) >= NODE_WIDTH or abs(one.y - other.y) >= NODE_HEIGHT
    for node in drawn.nodes:
        assert node.x >= 0
        assert node.y >= 0
        assert node.x + NODE_WIDTH <= drawn.width
        assert node.y + NODE_HEIGHT <= drawn.height
