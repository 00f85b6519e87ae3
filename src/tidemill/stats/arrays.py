"""What the numerics take: the array types, and the refusal of windows that hold nothing."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidemill.core.errors import Invalid

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
AnyArray = NDArray[Any]


class EmptyWindow(Invalid):
    """A window holds no value to compute from."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} holds no value; expected at least one: widen the window or wait for data")


class OneClass(Invalid):
    """All labels are equal, so there is nothing to tell apart."""

    def __init__(self, positives: int, total: int) -> None:
        self.positives, self.total = positives, total
        super().__init__(
            f"of {total} labels {positives} are positive; a ranking score needs both classes: widen the window or wait for labels"
        )


def floats(values: ArrayLike, what: str) -> FloatArray:
    """Return values as a finite float64 vector. Raises EmptyWindow, and Invalid for another shape or for NaN and infinity."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise Invalid(f"{what} has {array.ndim} dimensions; expected one")
    if array.size == 0:
        raise EmptyWindow(what)
    if not np.isfinite(array).all():
        raise Invalid(f"{what} holds NaN or infinity; expected finite numbers: leave missing values out and count them apart")
    return array


def labels_and_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[BoolArray, FloatArray]:
    """Return labels as booleans and scores as floats. Raises EmptyWindow, and Invalid when lengths differ or a label is not 0 or 1."""
    score = floats(scores, "the scores")
    label = np.asarray(labels)
    if label.shape != score.shape:
        raise Invalid(f"{label.size} labels do not match {score.size} scores; expected one label a score")
    if label.dtype != np.bool_:
        if not np.isin(label, (0, 1)).all():
            raise Invalid("a label is neither 0 nor 1; expected 0 for the negative and 1 for the positive class")
        label = label.astype(np.bool_)
    return label, score


def check_level(level: float) -> float:
    """Return a confidence level if it lies strictly between 0 and 1. Raises Invalid."""
    if not 0.0 < level < 1.0:
        raise Invalid(f"level {level} is not a confidence level; expected a number between 0 and 1, such as 0.95")
    return level
