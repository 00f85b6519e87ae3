"""Registered models over the wire: names, aliases, tags, environments, locks, comments, the trash."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from tidemill.client.call import Caller, Doc, Docs, segment, subpath


class Models:
    """`client.models`: registered models. A reference is NAME (the newest version), NAME@VERSION or NAME@alias."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self) -> Docs:
        """Return all registered models by name."""
        return self._caller.get("/models")

    def search(
        self,
        filter: str = "",  # noqa: A002 (as MLflow's clients call it)
        *,
        order_by: Sequence[str] = (),
        view: str = "active",
        limit: int = 100,
        page_token: str | None = None,
    ) -> Doc:
        """Return a page of models: `items`, and `next`, the token of the page behind it."""
        return self._caller.get("/model-search", filter=filter, order_by=order_by, view=view, limit=limit, page_token=page_token)

    def create(self, name: str, *, description: str = "", tags: Mapping[str, str] | None = None, reason: str = "") -> Doc:
        """Make a registered model without versions. Raises Conflict when the name is taken."""
        return self._caller.post("/models", {"name": name, "description": description, "tags": tags or {}, "reason": reason})

    def describe(self, name: str, description: str | None = None, *, owner: str | None = None, reason: str = "") -> Doc:
        """Write what a model is, and who owns it."""
        return self._change(name, {"description": description, "owner": owner, "reason": reason})

    def rename(self, name: str, new_name: str, *, reason: str = "") -> Doc:
        """Give a model another name; versions and history follow. Raises Conflict when it is taken."""
        return self._change(name, {"name": new_name, "reason": reason})

    def tag(self, name: str, tags: Mapping[str, str], *, reason: str = "") -> None:
        """Write tags of a model, replacing those of the same key."""
        self._caller.put(f"/models/{segment(name)}/tags", {"tags": dict(tags), "reason": reason})

    def untag(self, name: str, key: str, *, reason: str = "") -> None:
        """Take a tag of a model away."""
        self._caller.call("DELETE", f"/models/{segment(name)}/tags/{subpath(key)}", query={"reason": reason})

    def delete(self, name: str, *, reason: str = "") -> None:
        """Put a model into the trash; its name is free at once."""
        self._caller.call("DELETE", f"/models/{segment(name)}", query={"reason": reason})

    def restore(self, name: str, *, reason: str = "") -> Doc:
        """Bring the model that was last deleted under a name back."""
        return self._caller.post(f"/models/{segment(name)}/restore", reason=reason)

    def trash(self) -> Doc:
        """Return the `models` and `versions` in the trash."""
        return self._caller.get("/model-trash")

    def versions(self, name: str, *, limit: int = 100) -> Docs:
        """Return the versions of a model, newest first."""
        return self._caller.get(f"/models/{segment(name)}/versions", limit=limit)

    def get(self, reference: str, *, at: datetime | None = None) -> Doc:
        """Return one version; at: the one that an alias pointed at in that moment. Raises NotFound."""
        return self._caller.get(f"/model-versions/{segment(reference)}", at=at)

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

    def remove_alias(self, name: str, alias: str, *, reason: str = "") -> None:
        """Let an alias point nowhere. Raises NotFound."""
        self._caller.call("DELETE", f"/models/{segment(name)}/aliases/{segment(alias)}", query={"reason": reason})

    def environments(self, name: str, *, at: datetime | None = None) -> dict[str, str]:
        """Return version -> environment of those that stand in one, as it is, or as it was at a moment."""
        return self._caller.get(f"/models/{segment(name)}/environments", at=at)

    def environment_history(self, name: str) -> Docs:
        """Return every span in which a version stood in an environment, newest first."""
        return self._caller.get(f"/models/{segment(name)}/environment-history")

    def lock(self, name: str, version: int | None = None, *, reason: str) -> Doc:
        """Lock a version, or the model with all its versions. Raises Conflict when it is locked already."""
        return self._caller.post(f"/models/{segment(name)}/lock", {"version": version, "reason": reason})

    def unlock(self, name: str, version: int | None = None, *, reason: str = "") -> Doc:
        """Take a lock away; approvers only. Raises NotPermitted, NotFound."""
        return self._caller.post(f"/models/{segment(name)}/unlock", {"version": version, "reason": reason})

    def lock_history(self, name: str) -> Docs:
        """Return every span in which a model or a version of it was locked, newest first."""
        return self._caller.get(f"/models/{segment(name)}/lock-history")

    def comments(self, name: str, *, version: int | None = None) -> Docs:
        """Return what was said of a model and its versions, oldest first."""
        return self._caller.get(f"/models/{segment(name)}/comments", version=version)

    def comment(self, name: str, text: str, *, version: int | None = None) -> Doc:
        """Say something of a model or a version."""
        return self._caller.post(f"/models/{segment(name)}/comments", {"text": text, "version": version})

    def edit_comment(self, comment: str, text: str) -> Doc:
        """Change what one's own comment says."""
        return self._caller.put(f"/model-comments/{segment(comment)}", {"text": text})

    def delete_comment(self, comment: str) -> None:
        """Take a comment back."""
        self._caller.call("DELETE", f"/model-comments/{segment(comment)}")

    def _change(self, name: str, body: Doc) -> Doc:
        return self._caller.call("PATCH", f"/models/{segment(name)}", body=body)
