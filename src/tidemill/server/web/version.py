"""One model version: where it came from and went to, what its checks found, its card."""

from collections.abc import Mapping
from datetime import datetime

from tidemill.catalog.lineage import walk
from tidemill.checks.check import CheckRecord, list_checks
from tidemill.core.signature import ModelSpec
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import alias_history, read_aliases, read_version
from tidemill.registry.bundles import Described, describe_bundle
from tidemill.registry.mlmodel import signature_columns
from tidemill.registry.versions import ModelVersion
from tidemill.server.web.lineage import Picture, picture
from tidemill.server.web.page import Page
from tidemill.tracking.runs import read_run


class Tenure(Value, frozen=True, kw_only=True):
    """A span in which an alias pointed here."""

    alias: str
    since: datetime
    until: datetime | None
    reason: str


class VersionPage(Value, frozen=True, kw_only=True):
    """Context of a model version's page. signature: of an MLflow model, in short. names: run id -> name, for the picture."""

    version: ModelVersion
    aliases: tuple[str, ...]
    tenures: tuple[Tenure, ...]
    files: Described | None
    spec: ModelSpec | None
    signature: dict[str, str]
    checks: tuple[CheckRecord, ...]
    picture: Picture
    names: dict[str, str]
    card: str


def build(ws: Workspace, path: Mapping[str, str], _query: Mapping[str, str]) -> VersionPage:
    """Build a version's context. Raises ModelNotFound, AliasNotFound."""
    version = read_version(ws, f"{path['model']}@{path['version']}")
    pointing = read_aliases(ws, version.name)
    with ws.catalog.reading() as tx:
        edges = [*walk(tx, ws.project, version.node), *walk(tx, ws.project, version.node, direction="downstream", depth=1)]
    drawn = picture(version.node, edges)
    files = describe_bundle(ws, version.bundle) if version.bundle is not None else None
    return VersionPage(
        version=version,
        aliases=tuple(name for name, number in pointing.items() if number == version.version),
        tenures=tuple(
            Tenure(alias=held.alias, since=held.valid_from, until=held.valid_to, reason=held.reason)
            for held in alias_history(ws, version.name)
            if held.version == version.version
        ),
        files=files,
        spec=files.spec if files else None,
        signature=signature_columns(files.mlmodel) if files and files.mlmodel else {},
        checks=tuple(list_checks(ws, version.node)),
        picture=drawn,
        names={node.name: read_run(ws, node.name.partition(":")[2]).name for node in drawn.nodes if node.kind == "run"},
        card=ws.objects.get(version.card).decode() if version.card is not None else "",
    )


PAGE = Page(
    path="/models/{model}/{version}",
    template="version.html",
    section="models",
    build=build,
    title=lambda page: f"{page.version.name} v{page.version.version}",
    context=VersionPage,
)
