"""Experiments over the wire."""

from collections.abc import Mapping, Sequence

from tidemill.client.call import Caller, Doc, Docs


class Experiments:
    """`client.experiments`: names that runs are grouped under. A run makes its experiment when that is new."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self) -> Docs:
        """Return the experiments in use, by id."""
        return self._caller.get("/experiments")

    def page(
        self,
        filter: str = "",  # noqa: A002 (the word that every client knows)
        *,
        order_by: Sequence[str] = (),
        view: str = "active",
        limit: int = 100,
        page_token: str | None = None,
    ) -> Doc:
        """Return one page of a search: `items`, and `next`, the token that the following page is asked for with."""
        return self._caller.get("/experiment-search", filter=filter, order_by=order_by, view=view, limit=limit, page_token=page_token)

    def counts(self) -> dict[int, int]:
        """Return how many runs in use each experiment has, by its id."""
        return {int(experiment): count for experiment, count in self._caller.get("/experiment-counts").items()}

    def create(self, name: str, *, tags: Mapping[str, str] | None = None) -> Doc:
        """Make an experiment. Raises Conflict when its name is taken."""
        return self._caller.post("/experiments", {"name": name, "tags": dict(tags or {})})

    def get(self, experiment: int) -> Doc:
        """Return an experiment by its id, deleted or not. Raises NotFound."""
        return self._caller.get(f"/experiments/{experiment}")

    def rename(self, experiment: int, name: str) -> Doc:
        """Give an experiment another name. Raises Conflict when it is taken."""
        return self._caller.call("PATCH", f"/experiments/{experiment}", body={"name": name})

    def keep(self, experiment: int, days: int | None) -> Doc:
        """Say for how many days the deleted runs of an experiment are kept; None: as long as the setting says."""
        return self._caller.put(f"/experiments/{experiment}/keep", {"days": days})

    def set_tags(self, experiment: int, tags: Mapping[str, str]) -> None:
        """Write tags, replacing those of the same key."""
        self._caller.put(f"/experiments/{experiment}/tags", dict(tags))

    def delete(self, experiment: int) -> Doc:
        """Put an experiment into the trash; its name is free at once."""
        return self._caller.call("DELETE", f"/experiments/{experiment}")

    def restore(self, experiment: int) -> Doc:
        """Take an experiment out of the trash. Raises Conflict when its name was given away."""
        return self._caller.post(f"/experiments/{experiment}/restore")
