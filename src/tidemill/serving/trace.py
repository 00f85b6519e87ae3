"""The trace that a caller's request is part of."""


def trace_id_of(traceparent: bytes | None) -> str:
    """Return the trace id of a traceparent header (W3C Trace Context, section 3.2), empty when there is none."""
    if traceparent is None:
        return ""
    parts = traceparent.split(b"-")
    return parts[1].decode("latin-1") if len(parts) >= 4 and len(parts[1]) == 32 else ""
