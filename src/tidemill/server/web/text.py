"""One param or tag of one run, whole: the run's page shows the beginning of a long one."""

from collections.abc import Mapping

from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.server.web.page import Page
from tidemill.tracking.keys import read_text
from tidemill.tracking.runs import Run, read_head


class TextPage(Value, frozen=True, kw_only=True):
    """Context of the page of a param or tag."""

    run: Run
    kind: str
    key: str
    value: str


def build(ws: Workspace, path: Mapping[str, str], query: Mapping[str, str]) -> TextPage:
    """Build the context of a text's page. Raises RunNotFound, NotFound."""
    run, key = read_head(ws, path["run"]), query.get("key", "")
    kind = "tag" if query.get("kind") == "tag" else "param"
    return TextPage(run=run, kind=kind, key=key, value=read_text(ws, run.id, "tag" if kind == "tag" else "param", key))


PAGE = Page(
    path="/runs/{run}/text",
    template="text.html",
    section="runs",
    build=build,
    title=lambda page: f"{page.key} of {page.run.name}",
    context=TextPage,
)
