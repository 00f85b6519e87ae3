"""Values to JSON, to MessagePack, to plain data and back; and the one JSON that digests are taken of."""

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.codec import canonical, convert, decode, decode_any, encode, encode_text, pack, plain, schemas, unpack
from tidemill.core.digest import digest_value
from tidemill.core.errors import Invalid
from tidemill.core.values import Json, Meta, Value, Wire, field, fields_of, replace


class Tide(Value, frozen=True, kw_only=True, tag="tide", tag_field="kind"):
    """A value of its own."""

    height: Annotated[float, Meta(ge=0)]
    names: tuple[str, ...] = ()
    at: datetime = datetime(2013, 6, 1, tzinfo=UTC)
    lasts: timedelta = timedelta(hours=6)
    more: dict[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.height > 99:
            raise Invalid(f"a tide of {self.height} m is not one")


class Ebb(Value, frozen=True, kw_only=True, tag="ebb", tag_field="kind"):
    """Another of the same union."""

    depth: float


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
TIDES = st.builds(
    Tide,
    height=st.floats(0, 99),
    names=st.lists(st.text()).map(tuple),
    at=st.datetimes(timezones=st.just(UTC)),
    lasts=st.timedeltas(timedelta(0), timedelta(days=10_000)),
    more=st.dictionaries(st.text(), PLAIN, max_size=3),
)


@given(TIDES)
def test_a_value_comes_back_as_it_was(tide: Tide) -> None:
    assert decode(encode(tide), Tide) == tide
    assert decode(encode_text(tide, indent=2), Tide) == tide
    assert unpack(pack(tide), Tide) == tide
    assert convert(plain(tide), Tide) == tide


@given(PLAIN)
def test_plain_data_comes_back_as_json_reads_it(data: Any) -> None:
    assert decode_any(encode(data)) == data == json.loads(encode_text(data))
    assert unpack(pack(data), object) == data


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
def test_the_order_of_keys_changes_no_digest(data: dict[str, Any]) -> None:
    again = dict(reversed(data.items()))
    assert canonical(again) == canonical(data)
    assert digest_value(again) == digest_value(data)
    assert b": " not in canonical({"a": [1, 2]})


def test_a_tag_chooses_the_class() -> None:
    assert decode(b'{"kind": "ebb", "depth": 2}', Tide | Ebb) == Ebb(depth=2.0)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="Invalid value 'flood'"):
        decode(b'{"kind": "flood"}', Tide | Ebb)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"kind": "tide", "height": "x"}', r"tide was not understood: Expected `float`, got `str` - at `\$.height`"),
        (b'{"kind": "tide", "height": -1}', r"Expected `float` >= 0.0 - at `\$.height`"),
        (b'{"kind": "tide", "height": 1, "hieght": 2}', r"unknown field `hieght`"),
        (b'{"kind": "tide", "height": 1, "names": ["a", 2]}', r"at `\$.names\[1\]`"),
        (b'{"kind": "tide", "height": 100}', r"a tide of 100.0 m is not one"),
        (b'{"kind": "tide"}', r"missing required field `height`"),
        (b"{", r"tide is not valid JSON: Input data was truncated"),
        (b'{"kind": "tide", "height": 1} x', r"tide is not valid JSON"),
        (b'{"kind": "\xff"}', r"tide is not valid JSON: .*utf-8"),
        (b"", r"tide is not valid JSON"),
    ],
)
def test_a_fault_is_named_with_its_place(data: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        decode(data, Tide, what="tide")


def test_plain_data_that_is_no_value_is_named() -> None:
    with pytest.raises(Invalid, match=r"input was not understood: Expected `float`, got `str`"):
        convert({"kind": "tide", "height": "1"}, Tide)
    assert convert({"kind": "tide", "height": "1"}, Tide, strict=False).height == 1.0
    with pytest.raises(Invalid, match="packed record was not understood"):
        unpack(b"\xc1", Tide)
    with pytest.raises(Invalid, match="packed record was not understood"):
        unpack(pack({"kind": "ebb", "depth": 1}), Tide)


def test_a_foreign_shape_may_bring_more() -> None:
    class Foreign(Wire, frozen=True, kw_only=True):
        a: int

    assert decode(b'{"a": 1, "b": 2}', Foreign).a == 1


def test_values_are_frozen_and_replaced() -> None:
    tide = Tide(height=1)
    with pytest.raises(AttributeError):
        tide.height = 2  # type: ignore[misc]
    assert replace(tide, height=2.0) == Tide(height=2.0)
    with pytest.raises(Invalid, match="is not one"):
        replace(tide, height=100.0)
    assert fields_of(Tide) == ("height", "names", "at", "lasts", "more")


def test_schemas_refer_to_their_components() -> None:
    (shape,), components = schemas([Tide], ref_template="#/components/schemas/{name}")
    assert shape == {"$ref": "#/components/schemas/Tide"}
    assert components["Tide"]["properties"]["height"] == {"type": "number", "minimum": 0}
