"""What scores rows away from the serving workers: a model version, or what an endpoint answers with."""

from pathlib import Path

from tidemill.core.errors import NotFound
from tidemill.core.ids import Digest
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import read_version
from tidemill.registry.versions import bundle_of
from tidemill.serving.config import EndpointConfig, load
from tidemill.store.trees import checkout

BUNDLES = Path("serving") / "bundles"  # where workers keep the bundles that they have fetched, too


class Subject(Value, frozen=True, kw_only=True):
    """A model version. node: what lineage knows it by; threshold: the endpoint's own, over the one that the model brings."""

    model: str
    version: int
    node: str
    bundle: Digest
    threshold: float | None = None

    @property
    def reference(self) -> str:
        """What people call it."""
        return f"{self.model}@{self.version}"


class EndpointNotPublished(NotFound):
    """The data plane knows no endpoint of that name."""

    def __init__(self, endpoint: str, known: tuple[str, ...]) -> None:
        self.endpoint, self.known = endpoint, known
        super().__init__(
            f"no endpoint {endpoint!r} is served here (served: {', '.join(known) or 'none'}); "
            f"make it with: tidemill endpoint create {endpoint} MODEL@VERSION"
        )


def find_endpoint(ws: Workspace, name: str) -> EndpointConfig:
    """Return an endpoint of this project as it is served. Raises EndpointNotPublished."""
    ws.require("deploy.read", name)
    config = load(ws.state)
    mine = {each.name: each for each in config.endpoints if each.project == ws.project} if config is not None else {}
    if name not in mine:
        raise EndpointNotPublished(name, tuple(sorted(mine)))
    return mine[name]


def of_endpoint(ws: Workspace, name: str) -> Subject:
    """Return the variant of an endpoint that answers most. Raises EndpointNotPublished, ModelNotFound."""
    found = find_endpoint(ws, name)
    shares = found.route.shares
    variant = found.variant(max(sorted(shares), key=lambda each: shares[each]))
    return of_model(ws, f"{variant.model}@{variant.version}", threshold=found.options.threshold)


def of_model(ws: Workspace, reference: str, *, threshold: float | None = None) -> Subject:
    """Return a model version, by number or alias. Raises ModelNotFound, AliasNotFound, FilesElsewhere."""
    version = read_version(ws, reference)
    return Subject(model=version.name, version=version.version, node=version.node, bundle=bundle_of(version), threshold=threshold)


def bundle_folder(ws: Workspace, subject: Subject) -> Path:
    """Return the folder with the model's files, fetched if they are not there yet."""
    folder = ws.state / BUNDLES / subject.bundle
    return folder if folder.is_dir() else checkout(ws.objects, subject.bundle, folder)
