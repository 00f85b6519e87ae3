"""Model bundles: the model file and the model.json that says how to feed it, as one stored tree."""

from collections.abc import Sequence

from tidemill.core.codec import canonical
from tidemill.core.ids import Digest
from tidemill.core.signature import SPEC_FILE, Column, ModelSpec, Signature
from tidemill.store.objects import ObjectStore
from tidemill.store.trees import put_tree
from tidemill.training.encoding import Encoding
from tidemill.training.export import OUTPUT, tensors

MODEL_FILE = "model.onnx"


def model_spec(
    encoding: Encoding,
    *,
    feature_service: str | None = None,
    features: Sequence[str] = (),
    optional: Sequence[str] = (),
    threshold: float | None = None,
) -> ModelSpec:
    """Return the model.json of an exported model.

    features: the columns that the server looks up in feature_service; all others come with the request, where `optional` ones may be
    missing. Categories are not written into the signature: one that the model has not seen is to be scored, not refused.
    """
    looked_up, may_miss = set(features), {*features, *optional}
    inputs = tuple(
        Column(name=name, kind="string" if name in encoding.categorical else "double", required=name not in may_miss)
        for name in encoding.columns
    )
    return ModelSpec(
        runtime="onnx",
        file=MODEL_FILE,
        signature=Signature(inputs=inputs, outputs=(Column(name=OUTPUT, kind="double", low=0.0, high=1.0),)),
        tensors=tensors(encoding),
        output=OUTPUT,
        threshold=threshold,
        feature_service=feature_service,
        request_columns=tuple(name for name in encoding.columns if name not in looked_up),
    )


def write_bundle(store: ObjectStore, model: bytes, spec: ModelSpec) -> Digest:
    """Store a bundle; the same model and spec are the same digest."""
    return put_tree(store, {spec.file: model, SPEC_FILE: canonical(spec)})
