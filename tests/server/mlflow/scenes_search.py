"""Searches over runs: a grammar, tried word by word and at random, over the same few runs on every server."""

import random
from typing import Any

from tests.server.mlflow.scenes_runs import T0, made, started
from tests.server.mlflow.sides import API, Side

COUNT = 24
_FILTERS = (
    "", "metrics.auc > 0.5", "metrics.auc >= 0.5 AND metrics.auc < 0.9", "metrics.auc = 0.5", "metrics.auc != 0.5", "metrics.none > 0",
    "metrics.\"odd key\" > 1", "metrics.`odd key` <= 1", "metric.auc > 0.5", "metrics.auc > -1e3", "metrics.auc > 1.", "metrics.nan > 0",
    "metrics.nan = 0", "metrics.inf > 1e300", "metrics.auc > '0.5'", "metrics.auc LIKE '5'", "metrics.auc > abc", "metrics.auc IN (1, 2)",
    "params.depth = '3'", "params.depth != '3'", "params.depth > '3'", "params.depth LIKE '%'", "params.depth ILIKE '1_'",
    "params.kind LIKE 'Tree%'",
    "params.kind ILIKE 'tree%'", "params.kind LIKE 'tree%'", "params.depth = 3", "params.depth IN ('1', '2')",
    "params.depth NOT IN ('1', '2')",
    "param.depth = '3'", "parameters.depth = '3'", "params.`odd key/x` = 'a'", "params.none = 'x'", "params.depth IS NULL",
    "params.depth IS NOT NULL",
    "tags.team = 'red'", "tags.team != 'red'", "tag.team = 'red'", "tags.team IN ('red', 'blue')", "tags.team LIKE 'r%d'",
    "tags.team ILIKE 'R%D'",
    "tags.\"mlflow.user\" = 'ann'", "tags.mlflow.user = 'ann'", "tags.`mlflow.runName` = 'run 3'", "tags.mlflow.runName LIKE 'run 1%'",
    "tags.quote = 'it''s'", "tags.quote = \"it's\"", "tags.team IS NULL", "tags.team IS NOT NULL", "tags.lonely IS NULL",
    "attributes.status = 'FINISHED'", "attributes.status = 'finished'", "status = 'RUNNING'", "attribute.status != 'RUNNING'",
    "attributes.status IN ('FINISHED')",
    "run_name = 'run 5'", "attributes.run_name LIKE 'run 1%'", "attributes.`run_name` = 'run 5'", "attributes.`Run name` = 'run 5'",
    "run_name ILIKE 'RUN 2%'",
    "attributes.start_time > 1700000000500", "attributes.start_time <= 1700000000500", "start_time = 1700000000100",
    "attributes.end_time > 0",
    "attributes.created > 1700000000500", "attributes.Created < 1700000000500", "attributes.start_time = 'x'",
    "attributes.start_time LIKE '1'",
    "attributes.artifact_uri LIKE '%'", "attributes.user_id = 'ann'", "attributes.run_id LIKE '%'", "attributes.nothing = 'x'",
    "nothing.a = 'x'", "nothing = 'x'",
    "metrics.auc > 0.5 AND params.depth = '3' AND tags.team = 'red'", "metrics.auc > 0.5 and params.depth = '3'",
    "metrics.auc > 0.5 OR params.depth = '3'",
    "metrics.auc > 0.5 AND", "AND metrics.auc > 0.5", "metrics.auc", "metrics.auc >", "> 0.5", "metrics.auc > 0.5 params.depth = '3'",
    "metrics. > 1",
    "params.depth = '3", "params.depth = 3'", "'3' = params.depth", "1 < metrics.auc", "metrics.auc > 0.5;", "metrics.auc > 0.5 -- x",
    "(metrics.auc > 0.5)",
    "dataset.name = 'flights'", "datasets.name LIKE 'fl%'", "dataset.digest = 'd1'", "dataset.context = 'training'",
    "dataset.name IN ('flights', 'weather')",
    "dataset.nothing = 'x'", "dataset.name = 'flights' AND metrics.auc > 0.3", "dataset.context ILIKE 'TRAIN%'",
    "dataset.name != 'flights'", "metrics.nan != 1",
)  # fmt: skip
_ORDERS = (
    ["metrics.auc"], ["metrics.auc DESC"], ["metrics.auc ASC", "params.depth DESC"], ["params.depth"], ["params.depth DESC"],
    ["tags.team", "metrics.auc"],
    ["attributes.start_time"], ["start_time DESC"], ["attributes.end_time ASC"], ["attributes.status", "run_name"], ["run_name DESC"],
    ["metrics.none"],
    ["params.none"], ["tag.team DESC"], ["metrics.nan"], ["metrics.nan DESC"], ["metrics.inf DESC"], ["attributes.Created"],
    ["metrics.`odd key`"], ["metrics.\"odd key\" DESC"], ["nothing"], ["metrics.auc SIDEWAYS"], ["dataset.name"], ["attributes.nothing"],
    ["metrics.auc, params.depth"],
    ["metrics.auc", "metrics.auc"], [""], ["attributes.user_id"], ["attributes.artifact_uri"], ["attributes.experiment_id"],
)  # fmt: skip


def search(side: Side) -> None:
    """Every filter and every order once, views, limits, pages, tokens from elsewhere."""
    experiment = _filled(side)
    for number, text in enumerate(_FILTERS):
        with side.labelled(f"filter {number}: {text}"):
            _search(side, experiment, filter=text)
    for number, order in enumerate(_ORDERS):
        with side.labelled(f"order {number}: {order}"):
            _search(side, experiment, order_by=order)
    for given in ({"max_results": 0}, {"max_results": -1}, {"max_results": 50_001}, {"max_results": "x"}, {"max_results": 50_000},
                  {"run_view_type": "DELETED_ONLY"}, {"run_view_type": "ALL"}, {"run_view_type": 3}, {"run_view_type": "SOME"},
                  {"page_token": "bm9uc2Vuc2U="}, {"order_by": "metrics.auc"}, {"filter": 5}):  # fmt: skip
        with side.labelled(f"search/{given}"):
            _search(side, experiment, **given)
    for label, ids in (("none", []), ("unknown", ["987654"]), ("word", ["abc"]), ("several", [experiment, "0"]), ("no list", experiment)):
        with side.labelled(f"search in {label}"):
            side.post(API + "/runs/search", {"experiment_ids": ids, "filter": "tags.set = 'search'"})
    for order in (["metrics.auc DESC"], ["params.depth"], []):
        token = ""
        for page in range(4):
            with side.labelled(f"pages by {order}/{page}"):
                token = _search(side, experiment, order_by=order, max_results=9, page_token=token).get("next_page_token", "")


def chance_search(side: Side) -> None:
    """Conditions and orders put together at random, the same at random for every server."""
    experiment = _filled(side)
    chance = random.Random(77)
    conditions = (
        lambda: f"metrics.auc {chance.choice(['>', '<', '>=', '<=', '=', '!='])} {chance.choice([0.1, 0.25, 0.5, 0.75])}",
        lambda: f"params.depth {chance.choice(['=', '!='])} '{chance.randrange(6)}'",
        lambda: f"params.kind {chance.choice(['LIKE', 'ILIKE'])} '{chance.choice(['Tree%', 'tree%', '%e', '_ree 1', '%'])}'",
        lambda: f"tags.team {chance.choice(['=', '!='])} '{chance.choice(['red', 'blue', 'green'])}'",
        lambda: f"attributes.start_time {chance.choice(['>', '<='])} {T0 + chance.randrange(COUNT) * 100}",
        lambda: f"attributes.status = '{chance.choice(['FINISHED', 'RUNNING', 'FAILED'])}'",
        lambda: f"dataset.name = '{chance.choice(['flights', 'weather'])}'",
        lambda: f"run_name LIKE 'run {chance.randrange(3)}%'",
    )
    keys = ("metrics.auc", "metrics.loss", "params.depth", "tags.team", "attributes.start_time", "run_name", "attributes.status")
    for number in range(60):
        text = " AND ".join(chance.choice(conditions)() for _ in range(chance.randrange(1, 4)))
        order = [f"{key} {chance.choice(['ASC', 'DESC'])}" for key in chance.sample(keys, chance.randrange(3))]
        with side.labelled(f"chance {number}: {text} by {order}"):
            _search(side, experiment, filter=text, order_by=order, max_results=chance.choice([3, 7, 100]))


def datasets(side: Side) -> None:
    """Datasets and models that runs read and made."""
    experiment = made(side, "datasets")
    run = started(side, experiment)
    whole = {"name": "d", "digest": "x1", "source_type": "local", "source": "{}", "schema": "{}", "profile": "{}"}
    given: list[tuple[str, dict[str, Any]]] = [
        ("one", {"datasets": [{"dataset": whole, "tags": [{"key": "mlflow.data.context", "value": "training"}]}]}),
        ("again", {"datasets": [{"dataset": whole, "tags": [{"key": "mlflow.data.context", "value": "eval"}]}]}),
        ("untagged", {"datasets": [{"dataset": {**whole, "digest": "x2"}}]}),
        ("nameless", {"datasets": [{"dataset": {**whole, "name": "n" * 501}}]}),
        ("long digest", {"datasets": [{"dataset": {**whole, "digest": "d" * 37}}]}),
        ("long tag", {"datasets": [{"dataset": whole, "tags": [{"key": "k" * 256, "value": "v"}]}]}),
        ("long value", {"datasets": [{"dataset": whole, "tags": [{"key": "k", "value": "v" * 501}]}]}), ("none", {"datasets": []}),
        ("no list", {"datasets": {}}),
        ("unknown run", {"run_id": "0" * 32, "datasets": [{"dataset": whole}]}), ("no run", {"run_id": ""}),
    ]  # fmt: skip
    for label, body in given:
        with side.labelled(f"log-inputs/{label}"):
            side.post(API + "/runs/log-inputs", {"run_id": run, **body})
    with side.labelled("log-inputs/all of it"):
        side.get(API + "/runs/get", run_id=run)
    for label, ids in (("one", [experiment]), ("none", []), ("unknown", ["987654"]), ("many", [str(n) for n in range(21)])):
        with side.labelled(f"search-datasets/{label}"):
            side.post("/ajax-api/2.0/mlflow/experiments/search-datasets", {"experiment_ids": ids})


def _search(side: Side, experiment: str, **more: Any) -> Any:
    return side.post(API + "/runs/search", {"experiment_ids": [experiment], **more})


def _filled(side: Side) -> str:
    """Log a few runs that differ in everything that can be searched for."""
    experiment = made(side, f"search {len(side.answers)}")
    chance = random.Random(3)
    for number in range(COUNT):
        tags = [{"key": "team", "value": ("red", "blue", "green")[number % 3]}, {"key": "mlflow.user", "value": ("ann", "bob")[number % 2]},
                {"key": "quote", "value": "it's"}, {"key": "set", "value": "search"}]  # fmt: skip
        run = started(
            side, experiment, run_name=f"run {number}", start_time=T0 + number * 100, user_id=("ann", "bob")[number % 2], tags=tags
        )
        metrics = [{"key": "auc", "value": chance.choice([0.1, 0.25, 0.5, 0.75, 0.9]), "timestamp": T0, "step": 0},
                   {"key": "loss", "value": chance.random(), "timestamp": T0, "step": number},
                   {"key": "odd key", "value": number % 4, "timestamp": T0}]  # fmt: skip
        metrics += [{"key": "nan", "value": "NaN" if number % 2 else 1, "timestamp": T0}] if number % 3 else []
        metrics += [{"key": "inf", "value": ("Infinity", "-Infinity", 0)[number % 3], "timestamp": T0}]
        params = [
            {"key": "depth", "value": str(number % 5)},
            {"key": "kind", "value": ("Tree 1", "tree 2", "Line")[number % 3]},
            {"key": "odd key/x", "value": "ab"[number % 2]},
        ]
        with side.labelled("fill"):
            side.post(API + "/runs/log-batch", {"run_id": run, "metrics": metrics, "params": params if number % 4 else params[1:]})
            if number % 3 == 0:
                side.post(API + "/runs/update", {"run_id": run, "status": "FINISHED", "end_time": T0 + 10_000 + number})
            if number % 5 == 1:
                side.post(API + "/runs/update", {"run_id": run, "status": "FAILED", "end_time": T0 + 20_000})
            if number % 4 == 0:
                dataset = {
                    "name": ("flights", "weather")[number % 8 // 4],
                    "digest": f"d{number % 3}",
                    "source_type": "local",
                    "source": "{}",
                }
                side.post(
                    API + "/runs/log-inputs",
                    {"run_id": run, "datasets": [{"dataset": dataset, "tags": [{"key": "mlflow.data.context", "value": "training"}]}]},
                )
            if number == COUNT - 1:
                side.post(API + "/runs/delete", {"run_id": run})
    return experiment


SCENES = (search, chance_search, datasets)
