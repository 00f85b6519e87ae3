"""The traceparent header, by W3C Trace Context."""

import pytest

from tidemill.serving.trace import trace_id_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("header", [f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01-what-comes-later"])
def test_the_trace_id_is_read(header: str) -> None:
    assert trace_id_of(header.encode()) == TRACE


@pytest.mark.parametrize(
    "header",
    ["", "00", f"00-{TRACE}", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
     f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE[:-1]}-{SPAN}-01", f"00-{TRACE}-{SPAN}-zz", "00-" + "ü" * 16 + f"-{SPAN}-01"],
)  # fmt: skip
def test_what_is_no_traceparent_names_no_trace(header: str) -> None:
    assert trace_id_of(header.encode()) == ""


def test_no_header_is_no_trace() -> None:
    assert trace_id_of(None) == ""
