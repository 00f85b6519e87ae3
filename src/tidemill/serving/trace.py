"""The trace that a caller's request is part of."""

import re

# Later versions may append fields (W3C Trace Context, section 4); ff is no version, and ids of zeros are none.
TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


def trace_id_of(traceparent: bytes | None) -> str:
    """Return the trace id of a traceparent header (W3C Trace Context, section 3.2), empty when there is none or it is not one."""
    if traceparent is None:
        return ""
    found = TRACEPARENT.fullmatch(traceparent)
    return found[1].decode() if found is not None else ""
