"""Hold a window against a reference: pure decisions on tables and arrays. Effect and significance both must speak for a move."""

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.values import Value, replace
from tidemill.core.window import Window
from tidemill.monitor.detector import FittedDetector
from tidemill.monitor.monitors import MonitorSpec, Variation
from tidemill.monitor.report import Finding, WindowReport
from tidemill.monitor.table import load_detector
from tidemill.stats.arrays import BoolArray, FloatArray, IntArray
from tidemill.stats.drift import chi_square, psi_of_counts
from tidemill.stats.multiple import benjamini_hochberg
from tidemill.stats.scores import Interval, auc, auc_change, auc_interval, brier, expected_calibration_error, mean_interval, spiegelhalter

SCORE = "score"
REFERENCE_ROWS = 20_000
LARGEST_CATEGORIES = 50
MISSING, OTHER = "(missing)", "(other)"
# Keys of a reference's variation besides the names of its columns, which hold no colon.
_MISSING_OF, _SCORES, _AUC, _BRIER, _ECE = "missing:", "prediction:score", "performance:auc", "performance:brier", "calibration:ece"


class Sample:
    """Rows of one window: features as a table, scores and labels (0 or 1) as arrays, NaN where there is none; times for a reference.

    kept: the rows whose features were kept, None when all were. hidden: columns that are not kept as they were, and tell nothing.
    """

    def __init__(
        self, features: pa.Table, scores: FloatArray, labels: FloatArray, times: IntArray | None = None, *,
        kept: IntArray | None = None, hidden: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.features, self.scores, self.labels, self.times = features, scores, labels, times
        self.kept, self.hidden = kept, hidden

    @property
    def rows(self) -> int:
        return int(self.scores.size)

    def taken(self, rows: IntArray) -> "Sample":
        """Return some of the rows."""
        times = self.times[rows] if self.times is not None else None
        return Sample(_rows(self.features, rows), self.scores[rows], self.labels[rows], times)


class Reference:
    """A sample to hold windows against, prepared once: detectors fitted, own variation known."""

    def __init__(self, name: str, sample: Sample, spec: MonitorSpec, *, variation: Variation | None = None) -> None:
        self.name, self.rows = name, sample.rows
        # An even sample in time order is enough to fit detectors, and keeps large references cheap.
        step = max(1, -(-sample.rows // REFERENCE_ROWS))
        self.sample = sample.taken(np.arange(0, sample.rows, step, dtype=np.int64)) if step > 1 else sample
        self.judged = sample.taken(_judgeable(sample))
        columns = spec.columns or tuple(sample.features.column_names)
        self.columns = {name: _fit_column(self.sample.features, name, spec) for name in columns if name in sample.features.column_names}
        scored = self.sample.scores[~np.isnan(self.sample.scores)]
        self.score = _Numbers(load_detector(spec.detector).fit(scored, bins=spec.bins), scored, 0.0) if scored.size else None
        self.variation = variation if variation is not None else self._vary(sample, spec)

    def _vary(self, sample: Sample, spec: MonitorSpec) -> Variation:
        if sample.times is None or sample.rows == 0:
            return Variation(windows=0, effects={})
        length = spec.every // timedelta(microseconds=1)
        numbers = (sample.times - sample.times.min()) // length
        effects: dict[str, float] = {}
        windows = 0
        for number in np.unique(numbers):
            part = sample.taken(np.flatnonzero(numbers == number))
            if part.rows < spec.rows_min:
                continue
            windows += 1
            for name, effect in self._effects(part, spec).items():
                effects[name] = max(effects.get(name, 0.0), effect)
        return Variation(windows=windows, effects=effects)

    def _effects(self, part: Sample, spec: MonitorSpec) -> dict[str, float]:
        found = {}
        for name, column in self.columns.items():
            measured = column.measure(part.features.column(name))
            if measured is not None:
                found[name] = measured.effect
                found[_MISSING_OF + name] = abs(measured.missing_after - measured.missing_before)
        scored = part.scores[~np.isnan(part.scores)]
        if self.score is not None and scored.size:
            found[_SCORES] = self.score.detector.score(scored).effect
        judged = part.taken(_judgeable(part))
        if _tells(judged, spec) and judged.rows < self.judged.rows:
            found[_AUC] = auc(self.judged.labels, self.judged.scores) - auc(judged.labels, judged.scores)
            found[_BRIER] = brier(judged.labels, judged.scores) - brier(self.judged.labels, self.judged.scores)
            found[_ECE] = expected_calibration_error(judged.labels, judged.scores, bins=spec.bins)
        return found

    def threshold(self, own: float, key: str) -> float:
        """Return what a window has to exceed: a bound, or what the reference varies by itself if that is more."""
        return max(own, self.variation.effects.get(key, 0.0))


class _Measured(Value, frozen=True, kw_only=True):
    """One column of a window against the reference."""

    measure: str
    effect: float
    notable: float
    p_value: float
    before: float | None
    after: float | None
    told: str
    missing_before: float
    missing_after: float
    missing_p: float


class _Numbers:
    """A numeric column of the reference."""

    def __init__(self, detector: FittedDetector, values: FloatArray, missing: float, *, measure: str = "", notable: float = 0.0) -> None:
        self.detector, self.missing, self.count = detector, missing, values.size
        self.before, self.measure_name, self.notable = float(values.mean()), measure, notable

    def measure(self, column: Any) -> _Measured | None:
        values, gone = _numbers(column)
        if not values.size:
            return None
        found, after = self.detector.score(values), float(values.mean())
        missing = float(gone.mean())
        return _Measured(
            measure=self.measure_name, effect=found.effect, notable=self.notable, p_value=found.p_value, before=self.before, after=after,
            told=f"mean {self.before:.4g} before, {after:.4g} now", missing_before=self.missing, missing_after=missing,
            missing_p=_share_p(self.missing, self.count, missing, gone.size),
        )  # fmt: skip


class _Categories:
    """A column of text of the reference; rare categories count as one."""

    def __init__(self, counts: Mapping[str, int], *, notable: float) -> None:
        largest = sorted(counts, key=lambda name: (-counts[name], name))[:LARGEST_CATEGORIES]
        self.names = [*largest, OTHER]
        self.counts, self.notable = self._aligned(counts), notable

    def _aligned(self, counts: Mapping[str, int]) -> FloatArray:
        known = [float(counts.get(name, 0)) for name in self.names[:-1]]
        return np.array([*known, float(sum(counts.values())) - sum(known)])

    def measure(self, column: Any) -> _Measured | None:
        counts = _counts(column)
        if not counts:
            return None
        now = self._aligned(counts)
        scaled = now * (self.counts.sum() / now.sum())
        shares = self.counts / self.counts.sum(), now / now.sum()
        place = int(np.argmax(np.abs(shares[1] - shares[0])))
        before, after = float(shares[0][place]), float(shares[1][place])
        return _Measured(
            measure="psi", effect=psi_of_counts(self.counts, scaled), notable=self.notable, p_value=chi_square(self.counts, now).p_value,
            before=before, after=after, told=f"{self.names[place]} {before:.1%} before, {after:.1%} now",
            missing_before=0.0, missing_after=0.0, missing_p=1.0,
        )  # fmt: skip


def evaluate_window(reference: Reference, current: Sample, spec: MonitorSpec, window: Window) -> WindowReport:
    """Return what moved in a window. A window with too few rows, or too few labels, is told of and not judged by them."""
    report = WindowReport(
        monitor=spec.name,
        endpoint=spec.endpoint,
        view=spec.view,
        window=window,
        reference=reference.name,
        rows=current.rows,
        reference_rows=reference.rows,
        labels=int((~np.isnan(current.labels)).sum()),
        findings=(),
    )
    if current.rows < spec.rows_min:
        return replace(report, note=f"{current.rows} rows are too few to judge; {spec.rows_min} are needed")
    findings = _data(reference, current, spec) + _prediction(reference, current, spec)
    if spec.view:
        return replace(report, findings=tuple(findings))
    note, unkept = "", _unkept(reference, current)
    labelled = current.taken(_judgeable(current))
    if _tells(labelled, spec):
        findings += _performance(reference, labelled, spec) + _calibration(reference, labelled, spec)
    elif labelled.rows < spec.labels_min:
        note = f"{labelled.rows} labels are too few to judge performance; {spec.labels_min} are needed"
    else:
        note = f"all {labelled.rows} labels are alike, so performance cannot be judged"
    return replace(report, findings=tuple(findings), note="; ".join(filter(None, (note, unkept))))


def _unkept(reference: Reference, current: Sample) -> str:
    """Return what inputs were not kept, and so could not be judged; empty when all were."""
    hidden = sorted(current.hidden.intersection(reference.columns))
    told = [f"inputs of {current.kept.size} of {current.rows} predictions were kept"] if current.kept is not None else []
    return "; ".join(told + ([f"not kept, and not judged: {', '.join(hidden)}"] if hidden else []))


def _data(reference: Reference, current: Sample, spec: MonitorSpec) -> list[Finding]:
    features = current.features if current.kept is None else _rows(current.features, current.kept)
    if current.rows and not features.num_rows:
        return []
    watched = {name: column for name, column in reference.columns.items() if name not in current.hidden}
    measured = {
        name: found
        for name, column in watched.items()
        if name in features.column_names and (found := column.measure(features.column(name))) is not None
    }
    # One correction over all tests of the window, those of missing values included.
    adjusted = benjamini_hochberg([each.p_value for each in measured.values()] + [each.missing_p for each in measured.values()])
    findings = []
    for place, (name, found) in enumerate(measured.items()):
        threshold = reference.threshold(found.notable, name)
        p_value, p_missing = float(adjusted[place]), float(adjusted[len(measured) + place])
        text = f"{name}: {found.told} ({found.measure} {found.effect:.3g}, threshold {threshold:.3g})"
        moved = found.effect > threshold and p_value < spec.alpha
        findings.append(
            Finding(
                aspect="data", subject=name, measure=found.measure, value=found.effect, threshold=threshold, p_value=p_value, moved=moved,
                before=found.before, after=found.after, text=text,
            )
        )  # fmt: skip
        change = found.missing_after - found.missing_before
        bound = reference.threshold(spec.missing_change, _MISSING_OF + name)
        if abs(change) > bound and p_missing < spec.alpha:
            findings.append(_missing(name, change, bound, p_value=p_missing, before=found.missing_before, after=found.missing_after))
    gone = [name for name in watched if name not in measured]
    findings.extend(_missing(name, 1.0, spec.missing_change, p_value=0.0, before=None, after=1.0) for name in gone)
    return findings


def _missing(name: str, change: float, threshold: float, *, p_value: float, before: float | None, after: float) -> Finding:
    text = f"{name}: no value at all in this window" if before is None else f"{name}: {before:.1%} missing before, {after:.1%} now"
    return Finding(
        aspect="data", subject=name, measure="missing", value=change, threshold=threshold, p_value=p_value, moved=True,
        before=before, after=after, text=text,
    )  # fmt: skip


def _prediction(reference: Reference, current: Sample, spec: MonitorSpec) -> list[Finding]:
    scored = current.scores[~np.isnan(current.scores)]
    if reference.score is None or not scored.size:
        return []
    found = reference.score.detector.score(scored)
    threshold = reference.threshold(load_detector(spec.detector).notable, _SCORES)
    before, after = reference.score.before, float(scored.mean())
    return [
        Finding(
            aspect="prediction", subject=SCORE, measure=spec.detector, value=found.effect, threshold=threshold, p_value=found.p_value,
            moved=found.effect > threshold and found.p_value < spec.alpha, before=before, after=after,
            text=f"predictions: mean {before:.3f} before, {after:.3f} now ({spec.detector} {found.effect:.3g}, threshold {threshold:.3g})",
        )
    ]  # fmt: skip


def _performance(reference: Reference, labelled: Sample, spec: MonitorSpec) -> list[Finding]:
    judged = reference.judged
    if not _tells(judged, spec):
        return []
    now, then = auc_interval(labelled.labels, labelled.scores), auc_interval(judged.labels, judged.scores)
    change = auc_change(then, now, level=1 - spec.alpha)
    worse, better = _squares(labelled), _squares(judged)
    rise = worse.estimate - better.estimate
    p_rise = _larger_p(rise, (worse.variance or 0.0) + (better.variance or 0.0))
    drop, rise_most = reference.threshold(spec.auc_drop, _AUC), reference.threshold(spec.brier_rise, _BRIER)
    fell = change.difference < -drop and change.high < 0
    between = f"{change.low:+.3f} and {change.high:+.3f}"
    return [
        Finding(
            aspect="performance", subject="ranking", measure="auc", value=change.difference, threshold=-drop,
            p_value=change.p_value, moved=fell, before=then.estimate, after=now.estimate,
            text=f"AUC {then.estimate:.3f} before, {now.estimate:.3f} now (change between {between})",
        ),
        Finding(
            aspect="performance", subject="probabilities", measure="brier", value=rise, threshold=rise_most,
            p_value=p_rise, moved=rise > rise_most and p_rise < spec.alpha, before=better.estimate, after=worse.estimate,
            text=f"Brier score {better.estimate:.4f} before, {worse.estimate:.4f} now",
        ),
    ]  # fmt: skip


def _calibration(reference: Reference, labelled: Sample, spec: MonitorSpec) -> list[Finding]:
    most = reference.threshold(spec.calibration_error, _ECE)
    error = expected_calibration_error(labelled.labels, labelled.scores, bins=spec.bins)
    p_value = spiegelhalter(labelled.labels, labelled.scores).p_value
    said, was = float(labelled.scores.mean()), float(labelled.labels.mean())
    # Spiegelhalter's test weighs both ends against each other; the mean alone may be off while the two cancel.
    gap = _larger_p(abs(said - was), float((labelled.scores * (1 - labelled.scores)).mean()) / labelled.rows) * 2
    p_value = min(1.0, 2 * min(p_value, gap))
    return [
        Finding(
            aspect="calibration", subject="probabilities", measure="ece", value=error, threshold=most, p_value=p_value,
            moved=error > most and p_value < spec.alpha, before=said, after=was,
            text=f"calibration error {error:.3f} (threshold {most:.3g}): {said:.1%} said to be positive, {was:.1%} were",
        )
    ]  # fmt: skip


def _judgeable(sample: Sample) -> IntArray:
    """Return the rows that have both a score and a label."""
    return np.flatnonzero(~np.isnan(sample.scores) & ~np.isnan(sample.labels))


def _tells(judged: Sample, spec: MonitorSpec) -> bool:
    """Return whether there are enough labels, of both kinds, to judge by."""
    return judged.rows >= spec.labels_min and 0 < judged.labels.sum() < judged.rows


def _squares(sample: Sample) -> Interval:
    return mean_interval((sample.scores - sample.labels) ** 2)


def _larger_p(difference: float, variance: float) -> float:
    """Return the probability of a difference at least so large, in this direction, when there is none."""
    if variance <= 0:
        return float(difference <= 0)
    return 0.5 * math.erfc(difference / math.sqrt(2 * variance))


def _share_p(before: float, rows_before: int, after: float, rows_after: int) -> float:
    """Return the p-value of "two shares are one"."""
    table = np.array([[before * rows_before, (1 - before) * rows_before], [after * rows_after, (1 - after) * rows_after]])
    if not rows_before or not rows_after or (table.sum(axis=0) == 0).any():
        return 1.0
    return chi_square(table[0], table[1]).p_value


def _fit_column(table: pa.Table, name: str, spec: MonitorSpec) -> "_Numbers | _Categories":
    column, detector = table.column(name), load_detector(spec.detector)
    if _is_text(column):
        return _Categories(_counts(column), notable=load_detector("psi").notable)
    values, gone = _numbers(column)
    notable = spec.effect_min if spec.effect_min is not None else detector.notable
    return _Numbers(detector.fit(values, bins=spec.bins), values, float(gone.mean()), measure=spec.detector, notable=notable)


def _is_text(column: Any) -> bool:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _numbers(column: Any) -> tuple[FloatArray, BoolArray]:
    """Return the finite numbers of a column, and which rows have none."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = column.cast(pa.float64(), safe=False).fill_null(float("nan")).to_numpy()
    finite = np.isfinite(values)
    return values[finite], ~finite


def _rows(table: pa.Table, rows: IntArray) -> pa.Table:
    places: Any = pa.array(rows)
    return table.take(places)


def _counts(column: Any) -> dict[str, int]:
    counted: Any = pc.value_counts(column.cast(pa.string()))
    return {MISSING if each["values"] is None else each["values"]: each["counts"] for each in counted.to_pylist()}
