"""Registered models over the wire."""

from datetime import datetime

from tidemill.client.call import Caller, Doc, Docs, segment


class Models:
    """`client.models`: versions and aliases. A reference is NAME (the newest version), NAME@VERSION or NAME@alias."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self) -> Docs:
        """Return all registered models by name."""
        return self._caller.get("/models")

    def versions(self, name: str, *, limit: int = 100) -> Docs:
        """Return the versions of a model, newest first."""
        return self._caller.get(f"/models/{segment(name)}/versions", limit=limit)

    def get(self, reference: str) -> Doc:
        """Return one version. Raises NotFound."""
        return self._caller.get(f"/model-versions/{segment(reference)}")

    def card(self, reference: str) -> str:
        """Return the model card of a version, as Markdown. Raises NotFound."""
        return self._caller.download(f"/model-versions/{segment(reference)}/card").decode()

    def checks(self, reference: str) -> Docs:
        """Return what was found about a version, newest first, with the evidence."""
        return self._caller.get(f"/model-versions/{segment(reference)}/checks")

    def aliases(self, name: str, *, at: datetime | None = None) -> dict[str, int]:
        """Return alias -> version as it is, or as it was at a moment."""
        return self._caller.get(f"/models/{segment(name)}/aliases", at=at)

    def alias_history(self, name: str) -> Docs:
        """Return every span of every alias, newest first."""
        return self._caller.get(f"/models/{segment(name)}/alias-history")

    def promote(self, name: str, version: int, *, alias: str = "champion", reason: str = "", override: bool = False) -> Doc:
        """Point an alias at a version. Raises Conflict for one whose checks failed, unless an approver overrides with a reason."""
        body = {"version": version, "reason": reason, "override": override}
        return self._caller.put(f"/models/{segment(name)}/aliases/{segment(alias)}", body)
