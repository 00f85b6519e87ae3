"""Models as one ONNX file: text and numbers in, a calibrated probability out. Owns the graph and the proof that it says the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.values import Value
from tidemill.training.calibrate import Calibration
from tidemill.training.encoding import UNKNOWN, Encoding, numbers, texts
from tidemill.training.model import TrainedModel
from tidemill.training.trees import Trees, booster_of

NUMERIC, CATEGORICAL, OUTPUT = "numeric", "categorical", "probability"
OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
# Margins are sums of up to some hundred float32 numbers: the probability is right to about 1e-6. Ten times that is a fault.
PARITY_BOUND = 1e-5


class Parity(Value, frozen=True, kw_only=True):
    """How far the file's probabilities lie from Python's on some rows, and how far they may."""

    rows: int
    largest: float
    mean: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.largest <= self.bound


def to_onnx(model: TrainedModel) -> bytes:
    """Return the model as an ONNX file. Equal models give equal bytes.

    Inputs: `numeric` float32 [n, k] (NaN: missing) and `categorical` string [n, c], as far as the model has such columns; output:
    `probability` float32 [n, 1].
    """
    nodes, matrix = _encoder(model.encoding)
    attributes = _tree_attributes(model.trees)
    nodes.append(_helper().make_node("TreeEnsembleRegressor", [matrix], ["log_odds"], name="trees", domain="ai.onnx.ml", **attributes))
    return _assemble(model.encoding, nodes, model.calibration)


def booster_to_onnx(text: str, columns: int) -> bytes:
    """Return a model of LightGBM that tells one score a row, given in its text form, as an ONNX file.

    Input: `x` float32 [n, columns] (NaN: missing); output: `score` float32 [n, 1], as the booster's own predict tells it. Raises Invalid.
    """
    onnx, helper = _onnx(), _helper()
    trees = Trees(text=text, columns=tuple(f"f{place}" for place in range(columns)))
    constants, behind = _link(booster_of(trees).dump_model())
    nodes = [helper.make_node("TreeEnsembleRegressor", ["x"], ["raw"], name="trees", domain="ai.onnx.ml", **_tree_attributes(trees))]
    graph = helper.make_graph(
        [*nodes, *behind],
        "model",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, [None, 1])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="tidemill")
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def estimator_to_onnx(estimator: Any, encoding: Encoding, calibration: Calibration | None = None) -> bytes:
    """Return a fitted scikit-learn classifier of two outcomes, which takes the matrix of encoding, as such an ONNX file.

    Without a calibration its own probability goes out; with one the sigmoid is put over the log odds of it.
    """
    graph = _sklearn_graph(estimator, len(encoding.columns))
    onnx, helper = _onnx(), _helper()
    nodes, matrix = _encoder(encoding)
    inner = onnx.compose.add_prefix(graph, "estimator_").graph
    nodes.append(helper.make_node("Identity", [matrix], [inner.input[0].name], name="into_estimator"))
    nodes.extend(inner.node)
    nodes.append(helper.make_node("Gather", [inner.output[1].name, "one"], ["own"], name="positive_class", axis=1))
    constants = {"one": np.array([1], dtype=np.int64), "least": np.float32(1e-7), "most": np.float32(1 - 1e-7), "whole": np.float32(1)}
    nodes.append(helper.make_node("Clip", ["own", "least", "most"], ["clipped"], name="keep_from_certainty"))
    nodes.append(helper.make_node("Sub", ["whole", "clipped"], ["rest"], name="other_class"))
    nodes.append(helper.make_node("Div", ["clipped", "rest"], ["odds"], name="odds"))
    nodes.append(helper.make_node("Log", ["odds"], ["log_odds"], name="log_odds"))
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    return _assemble(encoding, nodes, calibration or Calibration(), constants=constants, extra=list(inner.initializer), opsets=opsets)


def check_parity(data: bytes, encoding: Encoding, table: pa.Table, expected: NDArray[np.float64], *, bound: float = PARITY_BOUND) -> Parity:
    """Run an ONNX file on a table's rows and compare with what Python says of them. Raises Invalid for an empty table."""
    if table.num_rows == 0:
        raise Invalid("parity was asked for on no rows; expected at least one")
    gaps = np.abs(run_onnx(data, encoding, table) - expected)
    return Parity(rows=table.num_rows, largest=float(gaps.max()), mean=float(gaps.mean()), bound=bound)


def run_onnx(data: bytes, encoding: Encoding, table: pa.Table) -> NDArray[np.float64]:
    """Return the probabilities that an ONNX file of this module gives a table's rows."""
    found = open_onnx(data).run([OUTPUT], feeds(encoding, table))[0]
    return np.asarray(found, dtype=np.float64).ravel()


def open_onnx(data: bytes) -> Any:
    """Return a session of ONNX Runtime over a file, with one thread."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ExtraMissing("onnxruntime", "ml") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def feeds(encoding: Encoding, table: pa.Table) -> dict[str, NDArray[Any]]:
    """Return a table's rows as the input tensors of the file."""
    found: dict[str, NDArray[Any]] = {}
    if encoding.numeric:
        found[NUMERIC] = np.stack([numbers(table, name).astype(np.float32) for name in encoding.numeric], axis=1)
    if encoding.categorical:
        found[CATEGORICAL] = np.stack([texts(table, name) for name in encoding.categorical], axis=1)
    return found


def tensors(encoding: Encoding) -> dict[str, tuple[str, ...]]:
    """Return the columns of each input tensor, in order."""
    pairs = ((NUMERIC, encoding.numeric), (CATEGORICAL, encoding.categorical))
    return {name: columns for name, columns in pairs if columns}


def _encoder(encoding: Encoding) -> tuple[list[Any], str]:
    """Return the nodes from inputs to the matrix, and the matrix's name."""
    helper = _helper()
    nodes, parts = [], [NUMERIC] if encoding.numeric else []
    for place, categories in enumerate(encoding.categories):
        picked, code = f"category_{place}", f"code_{place}"
        nodes.append(helper.make_node("Gather", [CATEGORICAL, f"place_{place}"], [picked], name=f"pick_{place}", axis=1))
        codes = [float(number) for number in range(len(categories))]
        table = {"keys_strings": list(categories) or [""], "values_floats": codes or [UNKNOWN], "default_float": UNKNOWN}
        nodes.append(helper.make_node("LabelEncoder", [picked], [code], name=f"encode_{place}", domain="ai.onnx.ml", **table))
        parts.append(code)
    nodes.append(helper.make_node("Concat", parts, ["matrix"], name="matrix", axis=1))
    return nodes, "matrix"


def _assemble(
    encoding: Encoding,
    nodes: list[Any],
    calibration: Calibration,
    *,
    constants: Mapping[str, Any] | None = None,
    extra: list[Any] | None = None,
    opsets: Mapping[str, int] | None = None,
) -> bytes:
    """Add calibration behind `log_odds` and write the file, without anything that differs from one day or machine to the next."""
    onnx, helper = _onnx(), _helper()
    nodes = [
        *nodes,
        helper.make_node("Mul", ["log_odds", "slope"], ["scaled"], name="calibrate_slope"),
        helper.make_node("Add", ["scaled", "intercept"], ["shifted"], name="calibrate_intercept"),
        helper.make_node("Sigmoid", ["shifted"], [OUTPUT], name="calibrate_sigmoid"),
    ]
    values: dict[str, Any] = {"slope": np.float32(calibration.slope), "intercept": np.float32(calibration.intercept), **(constants or {})}
    values.update({f"place_{place}": np.array([place], dtype=np.int64) for place in range(len(encoding.categories))})
    initializers = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()] + (extra or [])
    inputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT if name == NUMERIC else onnx.TensorProto.STRING, [None, len(columns)])
        for name, columns in tensors(encoding).items()
    ]
    output = helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph(nodes, "model", inputs, [output], initializers)
    # An estimator's converter names the least version that it needs; its operators mean the same in ours.
    versions = {domain: max(version, (opsets or {}).get(domain, 0)) for domain, version in (("", OPSET), ("ai.onnx.ml", ML_OPSET))}
    imports = [helper.make_opsetid(domain, version) for domain, version in sorted({**(opsets or {}), **versions}.items())]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="tidemill")
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _link(dump: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return what stands behind the sum of LightGBM's trees, by its objective: constants, and nodes from `raw` to `score`."""
    helper = _helper()
    words = str(dump.get("objective", "")).split() or [""]
    if dump.get("average_output") or "sqrt" in words:
        raise Invalid("a model of LightGBM whose trees are averaged, or told as roots, is not written as ONNX")
    if words[0] == "binary":
        steepness = next((float(word.partition(":")[2]) for word in words if word.startswith("sigmoid:")), 1.0)
        nodes = [helper.make_node("Mul", ["raw", "steepness"], ["log_odds"]), helper.make_node("Sigmoid", ["log_odds"], ["score"])]
        return {"steepness": np.float32(steepness)}, nodes
    if words[0] in ("poisson", "gamma", "tweedie"):
        return {}, [helper.make_node("Exp", ["raw"], ["score"])]
    if words[0] in ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg"):
        return {}, [helper.make_node("Identity", ["raw"], ["score"])]
    raise Invalid(f"a model of LightGBM with the objective {words[0] or 'none'!r} is not written as ONNX")


def _tree_attributes(trees: Trees) -> dict[str, Any]:
    """Return LightGBM's trees as the attributes of ONNX's tree ensemble.

    Rows are float32, thresholds double: each threshold is rounded down to the next float32, which parts float32 numbers exactly as it
    did. Converters that round to the nearest send rows that lie on a threshold to the wrong leaf.
    """
    dump = booster_of(trees).dump_model()
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes", "nodes_truenodeids", "nodes_falsenodeids",
            "nodes_missing_value_tracks_true", "target_treeids", "target_nodeids", "target_ids", "target_weights",
        )
    }  # fmt: skip
    for number, tree in enumerate(dump["tree_info"]):
        _add_tree(columns, number, tree["tree_structure"])
    return {**columns, "n_targets": 1, "aggregate_function": "SUM", "post_transform": "NONE"}


def _add_tree(columns: dict[str, list[Any]], number: int, root: dict[str, Any]) -> None:
    waiting, places = [root], {id(root): 0}
    while waiting:
        node = waiting.pop(0)
        leaf = "leaf_value" in node
        if not leaf:
            for side in ("left_child", "right_child"):
                places[id(node[side])] = len(places)
                waiting.append(node[side])
        threshold = np.float32(0.0) if leaf else _rounded_down(node)
        row = {
            "nodes_treeids": number,
            "nodes_nodeids": places[id(node)],
            "nodes_featureids": 0 if leaf else node["split_feature"],
            "nodes_values": float(threshold),
            "nodes_modes": "LEAF" if leaf else "BRANCH_LEQ",
            "nodes_truenodeids": 0 if leaf else places[id(node["left_child"])],
            "nodes_falsenodeids": 0 if leaf else places[id(node["right_child"])],
            "nodes_missing_value_tracks_true": 0 if leaf else int(_missing_goes_left(node)),
        }
        if leaf:
            row |= {"target_treeids": number, "target_nodeids": places[id(node)], "target_ids": 0, "target_weights": node["leaf_value"]}
        for name, value in row.items():
            columns[name].append(value)


def _rounded_down(node: dict[str, Any]) -> np.float32:
    if node["decision_type"] != "<=":
        raise Invalid(f"a tree splits by {node['decision_type']!r}; expected only '<=': encode categories as codes before fitting")
    with np.errstate(over="ignore"):
        threshold = np.float32(node["threshold"])
    return threshold if float(threshold) <= node["threshold"] else np.nextafter(threshold, np.float32(-np.inf))


def _missing_goes_left(node: dict[str, Any]) -> bool:
    """Say where NaN goes: LightGBM takes it for 0 where training saw none missing."""
    if node["missing_type"] == "NaN":
        return bool(node["default_left"])
    if node["missing_type"] == "None":
        return bool(node["threshold"] >= 0.0)
    raise Invalid(f"a tree treats missing values as {node['missing_type']!r}; expected NaN: fit without zero_as_missing")


def _sklearn_graph(estimator: Any, columns: int) -> Any:
    try:
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError as error:
        raise ExtraMissing("skl2onnx", "ml") from error
    try:
        return skl2onnx.convert_sklearn(
            estimator,
            initial_types=[("matrix", FloatTensorType([None, columns]))],
            options={"zipmap": False},
            target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
        )
    except (RuntimeError, NotImplementedError) as error:
        raise Invalid(f"{type(estimator).__name__} cannot be written as ONNX: {str(error).splitlines()[0]}") from error


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.compose
        import onnx.numpy_helper
    except ImportError as error:
        raise ExtraMissing("onnx", "ml") from error
    return onnx


def _helper() -> Any:
    return _onnx().helper
