"""What the files of a version are: a Tidemill bundle (`model.json`), an MLflow model (`MLmodel`), or neither. Nothing is ever unpickled."""

from typing import Literal

from tidemill.core.codec import decode
from tidemill.core.errors import Invalid
from tidemill.core.ids import Digest
from tidemill.core.signature import SPEC_FILE, ModelSpec
from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.registry.mlmodel import MLMODEL_FILE, MLmodel, parse_mlmodel
from tidemill.registry.served import NoForm, served_spec
from tidemill.store.trees import Tree, read_tree

Format = Literal["tidemill", "mlflow", "files"]


class Described(Value, frozen=True, kw_only=True):
    """What a tree of files says of itself. spec: of a Tidemill bundle; mlmodel: of an MLflow model."""

    format: Format
    files: int
    size_bytes: int
    spec: ModelSpec | None = None
    mlmodel: MLmodel | None = None


class NotServable(Invalid):
    """The files are kept and can be fetched; no runtime here can answer with them."""

    def __init__(self, described: Described, reason: str = "") -> None:
        self.described = described
        flavors = ", ".join(described.mlmodel.flavors) if described.mlmodel else ""
        what = f"an MLflow model (flavors: {flavors or 'none'}): {reason}" if described.mlmodel else f"files without {SPEC_FILE} or MLmodel"
        super().__init__(
            f"the version's files cannot be served: they are {what}; it is served once it is registered as tm.save_model writes it"
        )


class FilesElsewhere(Invalid):
    """Only where the files lie is on record."""

    def __init__(self, reference: str, source: str) -> None:
        self.reference, self.source = reference, source
        where = f"they lie at {source}" if source else "no files were given"
        super().__init__(f"model {reference} has no files in this workspace ({where}); register it again from files that are logged here")


def read_spec(ws: Workspace, bundle: Digest) -> ModelSpec:
    """Return the model.json of a bundle, or the one that an MLflow model comes to. Raises NotServable."""
    tree = read_tree(ws.objects, bundle)
    found = describe_tree(ws, tree)
    if found.spec is not None:
        return found.spec
    if found.mlmodel is None:
        raise NotServable(found)
    try:
        return served_spec(found.mlmodel, lambda path: ws.objects.get(tree.entry(path).digest))
    except Invalid as error:
        raise NotServable(found, error.reason if isinstance(error, NoForm) else str(error)) from error


def describe_bundle(ws: Workspace, bundle: Digest) -> Described:
    """Return what the files of a version are. Raises Invalid for a description that cannot be read."""
    return describe_tree(ws, read_tree(ws.objects, bundle))


def describe_tree(ws: Workspace, tree: Tree) -> Described:
    """Return what a tree is, read from the file in it that says so. Raises Invalid when that file cannot be read."""
    files = {entry.path: entry.digest for entry in tree.entries}
    spec = decode(ws.objects.get(files[SPEC_FILE]), ModelSpec, what=SPEC_FILE) if SPEC_FILE in files else None
    mlmodel = parse_mlmodel(ws.objects.get(files[MLMODEL_FILE])) if MLMODEL_FILE in files else None
    kind: Format = "tidemill" if spec else "mlflow" if mlmodel else "files"
    return Described(format=kind, files=len(files), size_bytes=tree.size_bytes, spec=spec, mlmodel=mlmodel)
