"""Versions of registered models over the wire."""

from collections.abc import Mapping, Sequence

from tidemill.client.call import Caller, Doc, Docs, segment, subpath


class ModelVersions:
    """`client.model_versions`: what a version is, where it stands, where it runs, how it compares."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def search(
        self,
        filter: str = "",  # noqa: A002 (as MLflow's clients call it)
        *,
        order_by: Sequence[str] = (),
        view: str = "active",
        limit: int = 100,
        page_token: str | None = None,
    ) -> Doc:
        """Return a page of versions of all models: `items`, and `next`, the token of the page behind it."""
        return self._caller.get("/model-version-search", filter=filter, order_by=order_by, view=view, limit=limit, page_token=page_token)

    def create(
        self,
        name: str,
        *,
        bundle: str | None = None,
        source: str = "",
        run: str | None = None,
        logged_model: str | None = None,
        sources: Sequence[str] = (),
        description: str = "",
        tags: Mapping[str, str] | None = None,
        reason: str = "",
    ) -> Doc:
        """Make a version of a stored tree (bundle), or of files that lie elsewhere, at source. Raises NotFound."""
        body = {
            "bundle": bundle, "source": source, "run": run, "logged_model": logged_model, "sources": list(sources),
            "description": description, "tags": dict(tags or {}), "reason": reason,
        }  # fmt: skip
        return self._caller.post(f"/models/{segment(name)}/versions", body)

    def describe(self, name: str, version: int, description: str, *, reason: str = "") -> Doc:
        """Write what a version is."""
        return self._caller.call("PATCH", self._path(name, version), body={"description": description, "reason": reason})

    def tag(self, name: str, version: int, tags: Mapping[str, str], *, reason: str = "") -> None:
        """Write tags of a version, replacing those of the same key."""
        self._caller.put(f"{self._path(name, version)}/tags", {"tags": dict(tags), "reason": reason})

    def untag(self, name: str, version: int, key: str, *, reason: str = "") -> None:
        """Take a tag of a version away."""
        self._caller.call("DELETE", f"{self._path(name, version)}/tags/{subpath(key)}", query={"reason": reason})

    def move(self, name: str, version: int, environment: str, *, reason: str = "", override: bool = False, archive: bool = False) -> Doc:
        """Move a version to dev, staging, production or archived, "" for none. archive: what stands there is archived.

        Raises Conflict for a locked one, and on the way to production for one whose checks failed, unless an approver overrides.
        """
        body = {"environment": environment, "reason": reason, "override": override, "archive": archive}
        return self._caller.post(f"{self._path(name, version)}/move", body)

    def delete(self, name: str, version: int, *, reason: str = "") -> None:
        """Put a version into the trash; its aliases end."""
        self._caller.call("DELETE", self._path(name, version), query={"reason": reason})

    def restore(self, name: str, version: int, *, reason: str = "") -> Doc:
        """Bring a version back from the trash."""
        return self._caller.post(f"{self._path(name, version)}/restore", reason=reason)

    def files(self, reference: str) -> Doc:
        """Say what the files of a version are: `format` is tidemill, mlflow or files."""
        return self._caller.get(f"/model-versions/{segment(reference)}/files")

    def origins(self, reference: str) -> Doc:
        """Say what a version came of: runs, code, data, features."""
        return self._caller.get(f"/model-versions/{segment(reference)}/origins")

    def where(self, reference: str, *, past: bool = False) -> Docs:
        """Return the endpoints behind which a version runs; past: and ran."""
        return self._caller.get(f"/model-versions/{segment(reference)}/places", past=past)

    def compare(self, *references: str) -> Doc:
        """Set versions side by side."""
        return self._caller.get("/model-version-comparison", reference=list(references))

    def _path(self, name: str, version: int) -> str:
        return f"/models/{segment(name)}/versions/{segment(version)}"
