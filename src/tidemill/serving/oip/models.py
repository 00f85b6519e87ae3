"""Models as the protocol sees them, whichever transport asks: what they take and give, and their versions."""

from collections.abc import Sequence
from typing import Any

from tidemill.core.errors import Invalid, NotFound
from tidemill.core.signature import ColumnKind
from tidemill.serving.oip.wire import ModelMetadata, TensorMetadata
from tidemill.serving.predict import Answered, Endpoint

_DATATYPES: dict[ColumnKind, str] = {"double": "FP64", "long": "INT64", "string": "BYTES", "boolean": "BOOL"}
LABEL = "label"


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
        outputs.append(TensorMetadata(name=LABEL, datatype="BOOL", shape=[-1]))
    return ModelMetadata(
        name=endpoint.config.key,
        versions=versions_of(endpoint),
        platform=f"tidemill_{endpoint.main.spec.runtime}",
        inputs=[TensorMetadata(name=name, datatype=_DATATYPES[inputs.get(name, "string")], shape=[-1]) for name in endpoint.schema.types],
        outputs=outputs,
    )


def check_outputs(endpoint: Endpoint, wanted: Sequence[str]) -> None:
    """Check the outputs that a caller asks for. Raises Invalid."""
    for name in wanted:
        if name not in (endpoint.output, LABEL):
            raise Invalid(f"model {endpoint.config.key!r} has no output {name[:200]!r} (it has: {endpoint.output}, {LABEL})")


def outputs_of(endpoint: Endpoint, answered: Answered, wanted: Sequence[str]) -> list[tuple[str, str, list[Any]]]:
    """Return name, datatype and values of each output; wanted: those that the caller asks for, all when empty."""
    found: list[tuple[str, str, list[Any]]] = [(endpoint.output, "FP64", answered.scores)]
    if endpoint.labelled and None not in (labels := endpoint.labels(answered)):
        found.append((LABEL, "BOOL", labels))
    return [output for output in found if output[0] in wanted] if wanted else found
