"""Worlds built in one line from defaults; each test names only what matters to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper

from tests.catalogs import migrated_file
from tidemill.core.clock import ManualClock
from tidemill.core.codec import canonical
from tidemill.core.ids import ActorId, Digest
from tidemill.core.settings import STATE_NAME
from tidemill.core.signature import SPEC_FILE, Column, ModelSpec, Signature
from tidemill.govern.actors import Actor, read_actor
from tidemill.govern.workspace import Workspace, grant_role, init_workspace, open_workspace
from tidemill.registry.versions import ModelVersion, register
from tidemill.store.trees import put_tree

START = datetime(2013, 6, 1, tzinfo=UTC)


def init(home: Path, **settings: Any) -> Workspace:
    """Make a workspace as `init_workspace` does, on a copy of a migrated catalog: migrating takes most of the time."""
    file = home / STATE_NAME / "catalog.db"
    if settings.get("catalog", "sqlite:catalog.db") == "sqlite:catalog.db" and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(migrated_file())
    return init_workspace(home, **settings)


@contextmanager
def workspace(home: Path, **settings: Any) -> Iterator[Workspace]:
    """Open a fresh workspace whose clock stands at START and moves when told: `tick(ws, hours=1)`."""
    made = init(home, **settings)
    made.clock = ManualClock(START)
    yield made
    made.close()


@contextmanager
def reopened(home: Path) -> Iterator[Workspace]:
    """Open a workspace that is there, its clock at START again."""
    made = open_workspace(home)
    made.clock = ManualClock(START)
    yield made
    made.close()


def tick(ws: Workspace, **span: float) -> datetime:
    """Move a workspace's clock."""
    assert isinstance(ws.clock, ManualClock)
    return ws.clock.advance(timedelta(**span))


def acting(ws: Workspace, name: str, role: str) -> Workspace:
    """Return the workspace for another actor with a role."""
    grant_role(ws, name, role)
    with ws.catalog.reading() as tx:
        actor: Actor = read_actor(tx, ActorId(name), project=ws.project)
    return ws.acting(actor, ws.project)


def flights(rows: int = 5, *, late: bool = False) -> pa.Table:
    """A small table of flights."""
    return pa.table(
        {"id": list(range(rows)), "carrier": ["UA", "AA", "B6", "DL", "EV"] * (rows // 5) + ["UA"] * (rows % 5), "late": [late] * rows}
    )


def bundle(ws: Workspace, *, slope: float = 1.0, bias: float = 0.0) -> Digest:
    """Store a model that answers sigmoid(slope * x + bias) of its one input x."""
    nodes = [
        helper.make_node("Mul", ["numeric", "slope"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["shifted"]),
        helper.make_node("Sigmoid", ["shifted"], ["score"]),
    ]
    weights = [helper.make_tensor(n, TensorProto.FLOAT, [1], np.array([v], np.float32)) for n, v in (("slope", slope), ("bias", bias))]
    graph = helper.make_graph(
        nodes, "line", [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])], weights,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    spec = ModelSpec(
        runtime="onnx", file="model.onnx", tensors={"numeric": ("x",)}, output="score", threshold=0.5, request_columns=("x",),
        signature=Signature(inputs=(Column(name="x", kind="double"),), outputs=(Column(name="score", kind="double"),)),
    )  # fmt: skip
    return put_tree(ws.objects, {"model.onnx": made.SerializeToString(), SPEC_FILE: canonical(spec)})


def model(ws: Workspace, name: str = "delay", *, slope: float = 1.0, bias: float = 0.0, **named: Any) -> ModelVersion:
    """Register a version of such a model."""
    return register(ws, name, bundle(ws, slope=slope, bias=bias), **named)
