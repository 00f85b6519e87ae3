"""What a run has under keys, a page at a time, for those who look at it: a run may have thousands."""

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import func, select

from tidemill.core.errors import NotFound
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.tracking.facts import METRICS, PARAMS, TAGS
from tidemill.tracking.runs import RUNS, find_run

Kind = Literal["metric", "param", "tag"]
CLIP = 300  # letters of a text that a page of them brings
GROUPS_MAX = 40
_TABLES: Mapping[Kind, Any] = {"metric": METRICS, "param": PARAMS, "tag": TAGS}
_DIGITS = re.compile(r"([0-9]+)")


class Group(Value, frozen=True, kw_only=True):
    """The keys that begin alike, up to a slash."""

    prefix: str
    keys: int


class Chosen(Value, frozen=True, kw_only=True):
    """Some keys of many, in order. fitting: how many were asked for, of total.

    groups: what those that fit begin with, some of each kind where there are too many; more_groups: how many were left out.
    next: the key that the following page is asked for with, None behind the last one.
    """

    keys: tuple[str, ...]
    fitting: int
    total: int
    groups: tuple[Group, ...]
    more_groups: int
    next: str | None


class Entry(Value, frozen=True, kw_only=True):
    """What stands under a key: the latest value of a metric and its step, or the beginning of a text that has so many letters."""

    key: str
    value: float | str
    step: int = 0
    letters: int = 0


class KeyPage(Value, frozen=True, kw_only=True):
    """A page of what a run has under keys."""

    chosen: Chosen
    entries: tuple[Entry, ...]


def read_keys(ws: Workspace, run: str, kind: Kind, *, find: str = "", under: str = "", after: str = "", limit: int = 100) -> KeyPage:
    """Return a page of what a run has of a kind; what is asked for is said as for `choose_keys`. Raises RunNotFound.

    Looks at all keys of the run, which the counts, the groups and the order need, and at the values of the chosen ones only.
    """
    ws.require("tracking.read", run)
    table = _TABLES[kind]
    with ws.catalog.reading() as tx:
        no = find_run(tx, ws.project, run, deleted=True).no
        keys = tx.execute(select(table.c.key).where(table.c.run == no)).scalars()
        chosen = choose_keys(keys, find=find, under=under, after=after, limit=limit)
        value = [table.c.value, table.c.step] if kind == "metric" else [func.substr(table.c.value, 1, CLIP), func.length(table.c.value)]
        rows = tx.execute(select(table.c.key, *value).where(table.c.run == no, table.c.key.in_(chosen.keys))).all()
    by_key = {key: _entry(kind, key, *rest) for key, *rest in rows}
    return KeyPage(chosen=chosen, entries=tuple(by_key[key] for key in chosen.keys))


def read_text(ws: Workspace, run: str, kind: Literal["param", "tag"], key: str) -> str:
    """Return a whole param or tag. Raises RunNotFound, NotFound."""
    ws.require("tracking.read", run)
    table = _TABLES[kind]
    with ws.catalog.reading() as tx:
        no = find_run(tx, ws.project, run, deleted=True).no
        found: str | None = tx.execute(select(table.c.value).where(table.c.run == no, table.c.key == key)).scalar_one_or_none()
    if found is None:
        raise NotFound(f"run {run} has no {kind} {key!r}; see what it has with: tidemill run show {run}")
    return found


def read_latest_of(ws: Workspace, runs: Sequence[str], keys: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return run -> key -> latest value of some metrics in some runs; what is not there is left out."""
    ws.require("tracking.read")
    query = (
        select(RUNS.c.id, METRICS.c.key, METRICS.c.value)
        .join(METRICS, METRICS.c.run == RUNS.c.no)
        .where(RUNS.c.project == ws.project, RUNS.c.id.in_(runs), METRICS.c.key.in_(keys))
    )
    found: dict[str, dict[str, float]] = {run: {} for run in runs}
    with ws.catalog.reading() as tx:
        for run, key, value in tx.execute(query):
            found[run][key] = math.nan if value is None else value
    return found


def choose_keys(keys: Iterable[str], *, find: str = "", under: str = "", after: str = "", limit: int = 100) -> Chosen:
    """Return the page of keys that begins behind one of them; numbers in keys count as numbers: layer.2 comes before layer.10.

    find: words that all stand in a key, in any case. under: what a key begins with, up to a slash.
    """
    listed = list(keys)
    words = find.casefold().split()
    start = f"{under}/" if under else ""
    fitting = [key for key in listed if key.startswith(start) and all(word in key.casefold() for word in words)]
    fitting.sort(key=natural)
    behind = fitting[bisect_right(fitting, natural(after), key=natural) :] if after else fitting
    counts = _count_groups(fitting, start)
    groups = _some_of_each(counts, GROUPS_MAX)
    return Chosen(
        keys=tuple(behind[:limit]),
        fitting=len(fitting),
        total=len(listed),
        groups=tuple(Group(prefix=prefix, keys=counts[prefix]) for prefix in groups),
        more_groups=len(counts) - len(groups),
        next=behind[limit - 1] if len(behind) > limit else None,
    )


def natural(key: str) -> tuple[list[str | int], str]:
    """Return what keys are ordered by, so that numbers in them count as numbers."""
    return [int(part) if place % 2 else part for place, part in enumerate(_DIGITS.split(key))], key


def _count_groups(keys: Sequence[str], start: str) -> Counter[str]:
    parts = (key[len(start) :].partition("/") for key in keys)
    return Counter(start + head for head, slash, _ in parts if slash)


def _some_of_each(prefixes: Iterable[str], count: int) -> list[str]:
    """Return so many prefixes, in order: the first of those that differ in numbers only, then the second ones, and so on."""
    seen: Counter[str] = Counter()
    turns = {}
    for prefix in sorted(prefixes, key=natural):
        kind = _DIGITS.sub("", prefix)
        turns[prefix] = seen[kind]
        seen[kind] += 1
    return sorted(sorted(turns, key=lambda prefix: turns[prefix])[:count], key=natural)


def _entry(kind: Kind, key: str, value: Any, number: int) -> Entry:
    if kind == "metric":
        return Entry(key=key, value=math.nan if value is None else value, step=number)
    return Entry(key=key, value=value, letters=number)
