"""Ways to part rows into those to learn from and those to judge by."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.core.errors import Invalid


def split_by_time(table: pa.Table, *, timestamp: str, last: timedelta) -> tuple[pa.Table, pa.Table]:
    """Return the rows before the last span of time, and the rows in it; each keeps its order.

    A model is judged by what came after what it learnt from, as it will be in use. Raises Invalid when either part is empty.
    """
    if timestamp not in table.column_names:
        raise Invalid(f"there is no column {timestamp!r} to split by (there are: {', '.join(table.column_names)})")
    times = table.column(timestamp)
    if not (pa.types.is_timestamp(times.type) and times.type.tz) or times.null_count:
        raise Invalid(f"column {timestamp!r} must hold a moment with a time zone in every row to be split by")
    newest = pc.max(times).as_py()
    cut = newest - last if newest is not None else None
    late = np.asarray(pc.greater(times, pa.scalar(cut, times.type)).to_numpy() if cut is not None else [], dtype=np.bool_)
    if late.all() or not late.any():
        raise Invalid(
            f"{table.num_rows} rows cannot be split at {cut}: one side would be empty; take more rows or another span than {last}"
        )
    return table.filter(pa.array(~late)), table.filter(pa.array(late))
