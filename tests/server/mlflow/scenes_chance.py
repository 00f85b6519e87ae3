"""Calls of MLflow's own client, drawn by lot, the same lots for every server: right ones, wrong ones, on what is there and what is gone."""

import random
from collections.abc import Callable
from typing import Any

from tests.server.mlflow.scenes_runs import T0
from tests.server.mlflow.sides import Side, attempt, listening

CALLS = 400
_UNKNOWN = "f" * 32
_KEYS = ("auc", "loss", "depth", "a/b", "odd key", "k" * 250, "k" * 251, "", "bad:key", "../up", "é")
_VALUES = (0.5, -1, 3, float("nan"), float("inf"), float("-inf"), 1e-320, 1e308, 2**53, -0.0)
_TEXTS = ("red", "blue", "", "it's", "ü😀", "v" * 500, "v" * 5001, "v" * 6001, "v" * 8001, "100%", "a_b", "line\nline", "\\")
_FILTERS = (
    "metrics.auc > 0.2", "metrics.loss <= 3", "params.depth = 'red'", "tags.depth LIKE '%e%'", "tags.auc ILIKE 'R%'", "status = 'RUNNING'",
    "attributes.run_name = 'run 3'", "metrics.`odd key` != 3", "params.`a/b` LIKE '%'", "tags.`é` = 'ü😀'",
    "attributes.start_time > 1700000000040", "dataset.name = 'd'", "nothing.at = 'all'", "metrics.auc ~ 3", "tags.loss = '100%'",
    "tags.loss LIKE 'a\\_b'",
)  # fmt: skip
_ORDERS = ("metrics.auc DESC", "params.depth", "tags.loss DESC", "attributes.start_time", "run_name DESC", "metrics.none", "nothing")
_MADE = ("name LIKE 'chance%'", "name ILIKE 'RENAMED%'")  # other scenes' experiments are not the same on both sides


class Lots:
    """What was made so far, and the next lot."""

    def __init__(self, side: Side, client: Any, seed: int) -> None:
        self.side, self.client, self.chance = side, client, random.Random(seed)
        self.experiments: list[str] = []
        self.runs: list[str] = []
        self.models = 0

    def one(self, among: Any) -> Any:
        return self.chance.choice(among)

    def experiment(self) -> str:
        return self.one([*self.experiments, "987654"]) if self.experiments else "0"

    def run(self) -> str:
        return self.one([*self.runs[-6:], *self.runs[-6:], _UNKNOWN]) if self.runs else _UNKNOWN

    def model(self) -> str:
        return f"chance {self.chance.randrange(4)}"

    def create_experiment(self) -> None:
        name = self.one([f"chance {len(self.experiments)}", "chance 0", "c" * 501])
        if (found := attempt(self.side, lambda: self.client.create_experiment(name))) is not None:
            self.experiments.append(found)

    def create_run(self) -> None:
        tags = {self.one(_KEYS[:5]): self.one(_TEXTS[:5])}
        made = attempt(
            self.side,
            lambda: self.client.create_run(self.experiment(), start_time=T0 + len(self.runs), run_name=f"run {len(self.runs)}", tags=tags),
        )
        if made is not None:
            self.runs.append(made.info.run_id)

    def log(self) -> Any:
        from mlflow.entities import Metric, Param, RunTag

        run, step = self.run(), self.chance.randrange(-2, 5)
        key = "auc" if run == _UNKNOWN else self.one(_KEYS)  # of two faults, either may be told
        value, text = self.one(_VALUES), self.one(_TEXTS)
        many = [Metric(self.one(_KEYS[:5]), self.one(_VALUES), T0 + n, n) for n in range(self.one([0, 1, 20, 999]))]
        params = [Param(self.one(_KEYS[:6]), self.one(_TEXTS[:6])) for _ in range(self.chance.randrange(3))]
        tags = [RunTag(self.one(_KEYS[:6]), self.one(_TEXTS)) for _ in range(self.chance.randrange(3))]
        return self.one(
            [
                lambda: self.client.log_metric(run, key, value, timestamp=T0 + step, step=step),
                lambda: self.client.log_param(run, key, text),
                lambda: self.client.set_tag(run, key, text),
                lambda: self.client.delete_tag(run, key),
                lambda: self.client.log_batch(run, many, params, tags),
            ]
        )()

    def move(self) -> Any:
        experiment, run = self.experiment(), self.run()
        status = self.one(["FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED"])
        return self.one(
            [
                lambda: self.client.delete_run(run),
                lambda: self.client.restore_run(run),
                lambda: self.client.restore_run(run),
                lambda: self.client.set_terminated(run, status, T0 + 5000),
                lambda: self.client.update_run(run, status=status, name=f"again {status}"),
                lambda: self.client.set_experiment_tag(experiment, self.one(_KEYS), self.one(_TEXTS)),
                lambda: self.client.restore_experiment(experiment),
                lambda: self.client.rename_experiment(experiment, f"renamed {len(self.side.answers)}"),
            ]
        )()

    def read(self) -> Any:
        run, key = self.run(), self.one(_KEYS[:5])
        text = " and ".join(self.chance.sample(_FILTERS, self.chance.randrange(3)))
        order, view = self.chance.sample(_ORDERS, self.chance.randrange(3)), self.chance.randrange(1, 4)
        most = self.one([1, 2, 5, 100])
        return self.one(
            [
                lambda: self.client.get_run(run),
                lambda: self.client.get_metric_history(run, key),
                lambda: self.client.get_experiment(self.experiment()),
                lambda: self.client.list_artifacts(run),
                lambda: self.client.search_runs(self.experiments[:8] or ["0"], text, view, most, order),
                lambda: self.client.search_experiments(view, most, self.one(_MADE), ["name"]),
            ]
        )()

    def register(self) -> Any:
        name, version, alias = self.model(), str(self.chance.randrange(1, 4)), self.one(["champion", "best", "latest", "v3", "a b"])
        key, text = self.one(_KEYS), self.one(_TEXTS)
        return self.one(
            [
                lambda: self.client.create_registered_model(name, tags={"a": "b"}),
                lambda: self.client.create_registered_model(name),
                lambda: self.client.set_registered_model_tag(name, key, text),
                lambda: self.client.set_registered_model_alias(name, alias, version),
                lambda: self.client.delete_registered_model_alias(name, alias),
                lambda: self.client.get_registered_model(name),
                lambda: self.client.get_model_version(name, version),
                lambda: self.client.search_registered_models(self.one([None, "name LIKE 'chance%'", "tags.a = 'b'", "x = 'y'"])),
            ]
        )()


def by_lot(side: Side, seed: int = 20) -> None:
    """Draw calls until there were enough."""
    from mlflow.tracking import MlflowClient

    lots = Lots(side, MlflowClient(tracking_uri=side.url, registry_uri=side.url), seed)
    acts: list[tuple[Callable[[], Any], int]] = [
        (lots.create_experiment, 1), (lots.create_run, 2), (lots.log, 9), (lots.move, 3), (lots.read, 5), (lots.register, 3),
    ]  # fmt: skip
    for number in range(CALLS):
        act = lots.chance.choices([act for act, _ in acts], [weight for _, weight in acts])[0]
        with listening(side), side.labelled(f"lot {number}/{act.__name__}"):
            attempt(side, act)


SCENES = (by_lot,)
