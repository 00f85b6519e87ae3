"""What a model says that it takes and gives."""

import pytest

from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid
from tidemill.core.signature import Column, ModelSpec, Signature
from tidemill.core.values import replace

SIGNATURE = Signature(
    inputs=(Column(name="delay", kind="double", low=0.0, high=60.0), Column(name="carrier", kind="string", categories=("AA", "UA"))),
    outputs=(Column(name="score", kind="double"),),
)
SPEC = ModelSpec(
    runtime="onnx", file="model.onnx", signature=SIGNATURE, tensors={"numeric": ("delay",), "text": ("carrier",)}, output="score"
)


def test_an_input_is_found_by_name() -> None:
    assert SIGNATURE.input("carrier").categories == ("AA", "UA")
    with pytest.raises(Invalid, match=r"signature has no input 'gate' \(it has: delay, carrier\)"):
        SIGNATURE.input("gate")


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_name_stands_once(side: str) -> None:
    column = Column(name="x", kind="double")
    with pytest.raises(Invalid, match=f"signature names {side} twice: x"):
        replace(SIGNATURE, **{side: (column, column)})


def test_a_range_ends_after_it_begins() -> None:
    with pytest.raises(Invalid, match=r"column 'delay' ranges from 2.0 to 1.0; expected low <= high"):
        Column(name="delay", kind="double", low=2.0, high=1.0)
    assert Column(name="delay", kind="double", low=1.0, high=1.0).low == 1.0


def test_a_spec_feeds_only_what_its_signature_names() -> None:
    with pytest.raises(Invalid, match="feeds columns that its signature does not name: gate, plane"):
        replace(SPEC, tensors={"numeric": ("plane", "delay", "gate")})


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_is_a_share(threshold: float) -> None:
    assert decode(encode(SPEC), ModelSpec) == SPEC
    with pytest.raises(Invalid, match=r"Expected `float` [<>]= [01].0 - at `\$.threshold`"):
        decode(encode(replace(SPEC, threshold=threshold)), ModelSpec)
