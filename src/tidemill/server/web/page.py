"""What all pages share: the frame around them, how values are written for readers, how they are rendered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tidemill.core.clock import utc
from tidemill.core.values import Value
from tidemill.govern.actors import Actor
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.status import VERSION
from tidemill.server.web.charts import plotly_script, plotly_style_ids

FOLDER = Path(__file__).parent
PAGE_PREFIX = "/projects/{project}"
Tone = str  # "good", "warn", "bad", "quiet" or "": how a badge looks


class Frame(Value, frozen=True, kw_only=True):
    """What stands around every page."""

    title: str
    section: str
    project: str
    actor: Actor
    now: datetime
    simulated: bool
    version: str
    draws: bool
    style_ids: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """A page: its path within the project, its template, and the function that builds its context.

    build takes the workspace, the path's parameters and the query as text, what is asked several times joined by commas; its answer's
    class declares what the template gets.
    """

    path: str
    template: str
    section: str
    build: Callable[[Workspace, Mapping[str, str], Mapping[str, str]], Value]
    title: Callable[[Any], str]
    context: type[Value]


def environment() -> Environment:
    """Return the templates' environment: escaping everywhere, nothing undefined passes in silence."""
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        moment=moment,
        day=day,
        number=number,
        percent=percent,
        size=size,
        span=span,
        tone=tone,
        short=short,
        subject=subject,
        asking=asking,
        zip=zip,
    )
    return made


def render(templates: Environment, page: Page, ws: Workspace, context: Value) -> str:
    """Return a page as HTML."""
    frame = Frame(
        title=page.title(context),
        section=page.section,
        project=ws.project,
        actor=ws.actor,
        now=ws.clock.now(),
        simulated=ws.clock.simulated,
        version=VERSION,
        draws=plotly_script() is not None,
        style_ids=plotly_style_ids(),
    )
    return templates.get_template(page.template).render(page=context, frame=frame, base=f"/projects/{ws.project}")


def moment(at: datetime | None) -> str:
    """Write a time for a reader: UTC, to the minute."""
    return "–" if at is None else utc(at).strftime("%Y-%m-%d %H:%M")


def day(at: datetime) -> str:
    """Write a date for a reader."""
    return utc(at).strftime("%d %b %Y")


def number(value: float | None, digits: int = 4) -> str:
    """Write a number for a reader: whole ones with thin groups, others to so many significant digits."""
    if value is None or value != value:
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.{digits}g}"


def percent(share: float) -> str:
    """Write a share for a reader."""
    return f"{share * 100:.3g}\u202f%"


def size(count: int) -> str:
    """Write a number of bytes for a reader."""
    left = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if left < 1000:
            return f"{left:.3g} {unit}"
        left /= 1000
    return f"{left:.3g} TB"


def span(length: timedelta | None) -> str:
    """Write a length of time for a reader, in its largest two units."""
    if length is None:
        return "–"
    seconds = length.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    units = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    parts: list[str] = []
    left = int(seconds)
    for name, width in units:
        if left >= width and len(parts) < 2:
            parts.append(f"{left // width} {name}")
            left %= width
    return " ".join(parts)


def tone(word: str) -> Tone:
    """Return how the badge of a state, verdict or outcome looks."""
    good = {"pass", "finished", "promoted", "done", "live", "ready", "resolved", "verified", "champion"}
    warn = {"warn", "running", "queued", "cooling", "open", "dropped", "canary", "shadow", "warning"}
    bad = {"fail", "failed", "killed", "rolled_back", "refused", "cancelled", "alert", "critical", "broken"}
    return "good" if word in good else "warn" if word in warn else "bad" if word in bad else "quiet"


def short(digest: str, length: int = 10) -> str:
    """Return the first digits of a digest or id: enough to tell them apart."""
    return digest[:length]


def asking(query: Mapping[str, str], **changed: str | None) -> str:
    """Return the address of a page that is asked the same as this one but for what is changed; None and "" ask nothing."""
    return "?" + urlencode({name: value for name, value in {**query, **changed}.items() if value})


def subject(node: str) -> str | None:
    """Return the path, within the project, of the page of a lineage node; None when it has none."""
    kind, _, name = node.partition(":")
    bare, at, version = name.rpartition("@")
    if kind == "run":
        return f"/runs/{name}"
    if kind == "endpoint":
        return f"/endpoints/{name}"
    if kind == "model":
        return f"/models/{quote(bare, safe='')}/{version}" if at and version.isdecimal() else "/models"
    return None
