"""The picture of a lineage graph: where each node stands and how edges run. Pure."""

from collections.abc import Sequence

from tidemill.catalog.lineage import Edge
from tidemill.core.values import Value

NODE_WIDTH, NODE_HEIGHT = 152, 46
GAP_X, GAP_Y = 42, 16
MARGIN = 12
SHOWN = 60
KINDS = ("dataset", "view", "service", "run", "model", "endpoint", "check", "artifact")


class Node(Value, frozen=True, kw_only=True):
    """A node with its corner on the picture. focus: the one that the picture is about."""

    name: str
    kind: str
    label: str
    x: int
    y: int
    focus: bool


class Arrow(Value, frozen=True, kw_only=True):
    """An edge as a path of the picture."""

    d: str
    relation: str
    source: str
    target: str


class Picture(Value, frozen=True, kw_only=True):
    """A lineage graph laid out from left (what was used) to right (what came of it). hidden: nodes left out, of the kinds that crowd it."""

    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]
    width: int
    height: int
    hidden: int
    node_width: int = NODE_WIDTH
    node_height: int = NODE_HEIGHT


def picture(focus: str, edges: Sequence[Edge], *, hide: Sequence[str] = ("check", "artifact")) -> Picture:
    """Lay a graph out in columns: each node right of all that it came of, columns ordered to keep edges short."""
    kept = [edge for edge in edges if _kind(edge.source) not in hide and _kind(edge.target) not in hide and edge.source != edge.target]
    names = list(dict.fromkeys([focus, *(name for edge in kept for name in (edge.source, edge.target))]))
    everything = {focus, *(name for edge in edges for name in (edge.source, edge.target))}
    names = names[:SHOWN]
    shown = set(names)
    kept = [edge for edge in kept if edge.source in shown and edge.target in shown]
    columns = _columns(names, kept)
    places = _places(columns, kept)
    nodes = tuple(
        Node(name=name, kind=_kind(name), label=_label(name), x=places[name][0], y=places[name][1], focus=name == focus) for name in names
    )
    arrows = tuple(_arrow(edge, places) for edge in kept)
    width = max(node.x for node in nodes) + NODE_WIDTH + MARGIN
    height = max(node.y for node in nodes) + NODE_HEIGHT + MARGIN
    return Picture(nodes=nodes, arrows=arrows, width=width, height=height, hidden=len(everything) - len(names))


def _columns(names: Sequence[str], edges: Sequence[Edge]) -> list[list[str]]:
    """Return the nodes by the length of the longest way that leads to them; an edge that would close a circle counts for nothing."""
    rank = dict.fromkeys(names, 0)
    for _ in names:  # as often as a way can be long
        moved = False
        for edge in edges:
            if rank[edge.target] <= rank[edge.source] < len(names) - 1:
                rank[edge.target] = rank[edge.source] + 1
                moved = True
        if not moved:
            break
    levels = sorted(set(rank.values()))  # a circle leaves gaps
    return [[name for name in names if rank[name] == level] for level in levels]


def _places(columns: list[list[str]], edges: Sequence[Edge]) -> dict[str, tuple[int, int]]:
    before: dict[str, list[str]] = {}
    for edge in edges:
        before.setdefault(edge.target, []).append(edge.source)
    row: dict[str, float] = {}
    ordered: list[list[str]] = []
    for column in columns:
        # Barycentre of what leads here. Source: Sugiyama, Tagawa, Toda (1981), section 3.
        def centre(name: str) -> tuple[float, int, str]:
            known = [row[source] for source in before.get(name, ()) if source in row]
            return (sum(known) / len(known) if known else -1.0, KINDS.index(_kind(name)) if _kind(name) in KINDS else 9, name)

        ranked = sorted(column, key=centre)
        row.update({name: place - (len(ranked) - 1) / 2 for place, name in enumerate(ranked)})
        ordered.append(ranked)
    tallest = max(len(column) for column in ordered)
    full = tallest * (NODE_HEIGHT + GAP_Y) - GAP_Y
    places = {}
    for number, column in enumerate(ordered):
        top = MARGIN + (full - (len(column) * (NODE_HEIGHT + GAP_Y) - GAP_Y)) // 2
        for place, name in enumerate(column):
            places[name] = (MARGIN + number * (NODE_WIDTH + GAP_X), top + place * (NODE_HEIGHT + GAP_Y))
    return places


def _arrow(edge: Edge, places: dict[str, tuple[int, int]]) -> Arrow:
    (x1, y1), (x2, y2) = places[edge.source], places[edge.target]
    start, end = (x1 + NODE_WIDTH, y1 + NODE_HEIGHT // 2), (x2, y2 + NODE_HEIGHT // 2)
    bend = max(GAP_X // 2, abs(end[0] - start[0]) // 2)
    d = f"M{start[0]},{start[1]} C{start[0] + bend},{start[1]} {end[0] - bend},{end[1]} {end[0] - 7},{end[1]}"
    return Arrow(d=d, relation=edge.relation, source=edge.source, target=edge.target)


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _label(name: str) -> str:
    kind, _, rest = name.partition(":")
    text = rest[:12] if kind in ("run", "artifact", "check", "prediction") else rest
    return text if len(text) <= 18 else f"{text[:17]}…"
