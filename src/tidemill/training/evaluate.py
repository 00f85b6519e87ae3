"""What a candidate is asked before it is registered: is it good, no worse than the champion, calibrated, fast, small, good everywhere?

Each question is a Check with its evidence. All are asked on rows that neither the fit nor the calibration has seen.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.checks.check import CheckResult, Evidence, EvidenceTable, Verdict
from tidemill.core.clock import elapsed
from tidemill.core.codec import decode
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest
from tidemill.core.signature import SPEC_FILE, ModelSpec
from tidemill.stats.arrays import OneClass
from tidemill.stats.scores import auc_difference, auc_interval, brier, expected_calibration_error, mean_interval, reliability
from tidemill.store.objects import ObjectStore
from tidemill.store.trees import read_tree
from tidemill.training.encoding import numbers, texts

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
LATENCY_TRIES = 200
SLICE_ROWS_MIN = 200


def score_bundle(store: ObjectStore, bundle: Digest, table: pa.Table) -> Floats:
    """Return the scores that a stored bundle gives a table's rows. The table has all columns of the signature."""
    spec, session = _open(store, bundle)
    answer = session.run([spec.output], _feeds(spec, table))[0]
    scores: Floats = np.asarray(answer, dtype=np.float64).reshape(len(answer), -1)[:, spec.output_index]
    return scores


def quality_check(labels: Labels, scores: Floats, *, auc_min: float) -> CheckResult:
    """Ask whether the model ranks well enough: the lower bound of its AUC reaches auc_min."""
    found = auc_interval(labels, scores)
    verdict: Verdict = "pass" if found.low >= auc_min else "fail"
    summary = f"AUC {found.estimate:.4f} ({found.low:.4f} to {found.high:.4f}) on {len(labels)} rows, at least {auc_min:g} expected"
    values = {
        "auc": found.estimate,
        "auc_low": found.low,
        "auc_high": found.high,
        "brier": brier(labels, scores),
        "rows": float(len(labels)),
    }
    return CheckResult(name="quality", verdict=verdict, summary=summary, evidence=Evidence(values=values, thresholds={"auc_low": auc_min}))


def champion_check(labels: Labels, scores: Floats, champion: Floats, *, margin: float) -> CheckResult:
    """Ask whether the candidate is not worse than the champion on the same rows, by more than margin of AUC.

    pass: shown. fail: shown to be worse than that. warn: the rows do not tell.
    """
    found = auc_difference(labels, scores, champion)
    losses = mean_interval(np.square(scores - labels) - np.square(champion - labels))
    verdict: Verdict = "pass" if found.low > -margin else "fail" if found.high < -margin else "warn"
    word = {"pass": "not worse", "fail": "worse", "warn": "not shown to be no worse"}[verdict]
    summary = f"{word} than the champion: AUC {found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f}), Brier {losses.estimate:+.4f}"
    values = {
        "auc_difference": found.difference,
        "auc_difference_low": found.low,
        "auc_difference_high": found.high,
        "p_value": found.p_value,
        "brier_difference": losses.estimate,
        "brier_difference_low": losses.low,
        "brier_difference_high": losses.high,
    }
    evidence = Evidence(values=values, thresholds={"auc_difference_low": -margin})
    return CheckResult(name="against the champion", verdict=verdict, summary=summary, evidence=evidence)


def calibration_check(labels: Labels, scores: Floats, *, error_max: float) -> CheckResult:
    """Ask whether probabilities mean what they say: the expected calibration error stays within error_max."""
    error = expected_calibration_error(labels, scores)
    bins = tuple((b.mean_score, b.positive_share, b.count) for b in reliability(labels, scores))
    verdict: Verdict = "pass" if error <= error_max else "warn"
    table = EvidenceTable(title="probability told and share that came true", columns=("told", "came true", "rows"), rows=bins)
    summary = f"expected calibration error {error:.4f}, at most {error_max:g} wanted"
    evidence = Evidence(values={"calibration_error": error}, thresholds={"calibration_error": error_max}, tables=(table,))
    return CheckResult(name="calibration", verdict=verdict, summary=summary, evidence=evidence)


def slices_check(table: pa.Table, labels: Labels, scores: Floats, *, by: tuple[str, ...], drop_max: float) -> CheckResult:
    """Ask whether some slice (one value of one column of `by`) is ranked much worse than the whole.

    A slice fails when even the upper bound of its AUC lies more than drop_max below the whole's. Slices of under 200 rows do not count.
    """
    whole = auc_interval(labels, scores).estimate
    rows: list[tuple[str, str, int, float, float, float, float]] = []
    worst: list[str] = []
    for column in by:
        values = texts(table, column)
        for value in np.unique(values):
            chosen = values == value
            if chosen.sum() < SLICE_ROWS_MIN:
                continue
            try:
                found = auc_interval(labels[chosen], scores[chosen])
            except OneClass:
                continue
            rows.append(
                (column, str(value), int(chosen.sum()), found.estimate, found.low, found.high, brier(labels[chosen], scores[chosen]))
            )
            if found.high < whole - drop_max:
                worst.append(f"{column} {value} ({found.estimate:.3f})")
    lowest = min((row[3] for row in rows), default=whole)
    summary = f"{len(rows)} slices, lowest AUC {lowest:.3f} against {whole:.3f} of the whole" + (
        f"; too low: {', '.join(worst)}" if worst else ""
    )
    columns = ("column", "value", "rows", "auc", "low", "high", "brier")
    evidence = Evidence(
        values={"auc": whole, "lowest_auc": lowest},
        thresholds={"lowest_auc": whole - drop_max},
        tables=(EvidenceTable(title="by slice", columns=columns, rows=tuple(rows)),),
    )
    return CheckResult(name="slices", verdict="fail" if worst else "pass", summary=summary, evidence=evidence)


def budget_checks(store: ObjectStore, bundle: Digest, table: pa.Table, *, p99_ms_max: float, size_bytes_max: int) -> list[CheckResult]:
    """Ask whether one row is scored fast enough (99th percentile, this machine, one thread) and the bundle is small enough."""
    spec, session = _open(store, bundle)
    one = _feeds(spec, table.slice(0, 1))
    times = []
    for _ in range(LATENCY_TRIES):
        began = elapsed()
        session.run([spec.output], one)
        times.append((elapsed() - began) * 1000)
    p99, size = float(np.quantile(times, 0.99)), read_tree(store, bundle).size_bytes
    latency = CheckResult(
        name="latency",
        verdict="pass" if p99 <= p99_ms_max else "fail",
        summary=f"one row in {p99:.3f} ms (99th percentile of {LATENCY_TRIES}), at most {p99_ms_max:g} ms",
        evidence=Evidence(values={"p99_ms": p99, "p50_ms": float(np.median(times))}, thresholds={"p99_ms": p99_ms_max}),
    )
    small = CheckResult(
        name="size",
        verdict="pass" if size <= size_bytes_max else "fail",
        summary=f"{size / 1e6:.2f} MB, at most {size_bytes_max / 1e6:g} MB",
        evidence=Evidence(values={"size_bytes": float(size)}, thresholds={"size_bytes": float(size_bytes_max)}),
    )
    return [latency, small]


def parity_check(largest: float, rows: int, *, bound: float) -> CheckResult:
    """Ask whether the exported file answers as the model that was trained did."""
    verdict: Verdict = "pass" if largest <= bound else "fail"
    evidence = Evidence(values={"largest_difference": largest, "rows": float(rows)}, thresholds={"largest_difference": bound})
    return CheckResult(
        name="parity",
        verdict=verdict,
        summary=f"ONNX and Python differ by at most {largest:.2g} on {rows} rows, {bound:g} allowed",
        evidence=evidence,
    )


def _open(store: ObjectStore, bundle: Digest) -> tuple[ModelSpec, Any]:
    import onnxruntime

    tree = read_tree(store, bundle)
    spec = decode(store.get(tree.entry(SPEC_FILE).digest), ModelSpec, what=SPEC_FILE)
    if spec.runtime != "onnx":
        raise Invalid(f"bundle {bundle} is of runtime {spec.runtime!r}, and only ONNX is scored here; score it with the model itself")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return spec, onnxruntime.InferenceSession(store.get(tree.entry(spec.file).digest), options, providers=["CPUExecutionProvider"])


def _feeds(spec: ModelSpec, table: pa.Table) -> dict[str, NDArray[Any]]:
    kinds = {column.name: column.kind for column in spec.signature.inputs}
    fed: dict[str, NDArray[Any]] = {}
    for tensor, names in spec.tensors.items():
        if kinds[names[0]] == "string":
            fed[tensor] = np.column_stack([texts(table, name) for name in names])
        else:
            fed[tensor] = np.column_stack([numbers(table, name) for name in names]).astype(np.float32)
    return fed
