"""Models as the protocol sees them, whichever transport asks: what they take and give, and their versions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tidemill.core.errors import Invalid, NotFound
from tidemill.core.signature import OutputKind
from tidemill.serving.oip.wire import ModelMetadata, TensorMetadata
from tidemill.serving.predict import Answered, Endpoint

_DATATYPES: dict[OutputKind, str] = {"double": "FP64", "float": "FP32", "long": "INT64", "string": "BYTES", "boolean": "BOOL"}


class Told(NamedTuple):
    """One tensor of an answer; values flat, row by row."""

    name: str
    datatype: str
    shape: list[int]
    values: Any

    def listed(self) -> list[Any]:
        """Return the values as Python's own."""
        found: list[Any] = self.values.tolist() if isinstance(self.values, np.ndarray) else self.values
        return found


def versions_of(endpoint: Endpoint) -> list[str]:
    """Return the versions that are served."""
    return sorted({str(variant.config.version) for variant in endpoint.variants.values()})


def check_version(endpoint: Endpoint, asked: str) -> None:
    """Check a version that a caller names; which one answers is the route policy's choice all the same. Raises NotFound."""
    if asked not in (has := versions_of(endpoint)):
        raise NotFound(f"model {endpoint.config.key!r} has no version {asked[:200]!r} here (it has: {', '.join(has)})")


def metadata(endpoint: Endpoint) -> ModelMetadata:
    """Return what a model takes and gives: each column is a tensor."""
    inputs = {column.name: column.kind for column in endpoint.main.spec.signature.inputs}
    outputs = [TensorMetadata(name=endpoint.output, datatype="FP64", shape=[-1])]
    if endpoint.threshold(endpoint.main) is not None:
        outputs.append(TensorMetadata(name=endpoint.label, datatype="BOOL", shape=[-1]))
    for output in endpoint.others:
        shape = [-1] if output.width is None else [-1, output.width]
        outputs.append(TensorMetadata(name=output.name, datatype=_DATATYPES[output.kind], shape=shape))
    return ModelMetadata(
        name=endpoint.config.key,
        versions=versions_of(endpoint),
        platform=f"tidemill_{endpoint.main.spec.runtime}",
        inputs=[TensorMetadata(name=name, datatype=_DATATYPES[inputs.get(name, "string")], shape=[-1]) for name in endpoint.schema.types],
        outputs=outputs,
    )


def check_outputs(endpoint: Endpoint, wanted: Sequence[str]) -> None:
    """Check the outputs that a caller asks for. Raises Invalid."""
    has = (endpoint.output, endpoint.label, *(output.name for output in endpoint.others))
    for name in wanted:
        if name not in has:
            raise Invalid(f"model {endpoint.config.key!r} has no output {name[:200]!r} (it has: {', '.join(has)})")


def score_only(endpoint: Endpoint, wanted: Sequence[str]) -> bool:
    """Return whether outputs that a caller asks for, all when empty, leave out everything beside the score."""
    return bool(endpoint.others and wanted) and not any(output.name in wanted for output in endpoint.others)


def outputs_of(endpoint: Endpoint, answered: Answered, wanted: Sequence[str]) -> list[Told]:
    """Return the outputs; wanted: those that the caller asks for, all when empty."""
    shape = [len(answered.scores)]
    found = [Told(endpoint.output, "FP64", shape, answered.scores)]
    if endpoint.labelled and None not in (labels := endpoint.labels(answered)):
        found.append(Told(endpoint.label, "BOOL", shape, labels))
    if answered.others:
        for output in endpoint.others:
            array = answered.others[output.name]
            found.append(Told(output.name, _DATATYPES[output.kind], list(array.shape), array.reshape(-1)))
    return [output for output in found if output.name in wanted] if wanted else found
