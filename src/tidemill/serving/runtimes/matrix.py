"""What models are fed that take one matrix of numbers: the columns of the spec's one tensor, in order; NaN is missing."""

import numpy as np
from numpy.typing import NDArray

from tidemill.core.errors import Invalid
from tidemill.core.signature import ModelSpec
from tidemill.serving.block import Block
from tidemill.serving.runtimes.runtime import Columns, ModelFailed

Matrix = NDArray[np.float32] | NDArray[np.float64]


class MatrixFeed:
    """Turns columns into the matrix of a model. A block that has just these columns goes through as it is."""

    def __init__(self, spec: ModelSpec, *, model: str) -> None:
        """Raises Invalid for a spec that feeds text, or not one matrix."""
        if len(spec.tensors) != 1:
            raise Invalid(
                f"model {model} of runtime {spec.runtime!r} takes one matrix, its model.json fills {len(spec.tensors)} tensors; "
                f"name all columns under one"
            )
        (self.names,) = spec.tensors.values()
        self._model = model
        if texts := [name for name in self.names if spec.signature.input(name).kind == "string"]:
            raise Invalid(
                f"model {model} of runtime {spec.runtime!r} takes numbers only, its model.json feeds it the text of {', '.join(texts)}; "
                f"register it as ONNX with its encoder, or encode text before it"
            )

    def check_width(self, width: int) -> None:
        """Raises Invalid when the model takes another number of columns than its spec brings."""
        if width != len(self.names):
            raise Invalid(
                f"model {self._model} takes {width} columns, its model.json feeds it {len(self.names)}; "
                f"register it again with a matching model.json"
            )

    def matrix(self, columns: Columns) -> Matrix:
        """Return the matrix [rows, columns]. Raises ModelFailed for what is no number."""
        if isinstance(columns, Block) and columns.names == self.names:
            return columns.matrix
        try:
            turned = np.array([columns[name] for name in self.names], dtype=np.float64)  # None becomes NaN
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelFailed(self._model, f"a column holds what is no number: {error}") from error
        return np.ascontiguousarray(turned.T)
