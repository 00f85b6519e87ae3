"""A workspace that has become large: a run of ten thousand metrics, and more runs than a page holds."""

from typing import NamedTuple

import numpy as np

from tests import world
from tidemill.core.clock import micros
from tidemill.govern.workspace import Workspace
from tidemill.tracking.batches import Series, log_batch, log_series
from tidemill.tracking.runs import end_run, log_artifact, start_run

LAYERS, PER_LAYER = 400, 25
LONG_POINTS = 1_000_000
RUNS, METRICS, STEPS = 1200, 50, 20
WORDS = ("loss", "accuracy", "f1", "grad_norm", "rate")


class Crowd(NamedTuple):
    """The run of many metrics, and the newest of the many runs."""

    large: str
    newest: str


def crowd(ws: Workspace) -> Crowd:
    """Fill a workspace."""
    random = np.random.default_rng(7)
    many = [a_run(ws, number, random) for number in range(RUNS)]
    return Crowd(large=large_run(ws, random), newest=many[-1])


def large_run(ws: Workspace, random: np.random.Generator) -> str:
    """A run of ten thousand metrics, two of them of a million points, of thousands of params and tags, and of long texts."""
    params = {f"layer.{layer}/units": 2**6 for layer in range(2000)} | {"prompt": "You are a careful forecaster. " * 200}
    tags = {"config": '{"depth": 12, "widths": [64, 64, 128]}, ' * 150} | {f"host.{number}": f"node-{number}" for number in range(120)}
    run = start_run(ws, "large", name="ten thousand metrics", params=params, tags=tags).id
    at = micros(ws.clock.now())
    keys = [f"layer.{layer}/weight.{number}/norm" for layer in range(LAYERS) for number in range(PER_LAYER - 1)]
    keys += [f"probe/{number}" for number in range(LAYERS)]
    rows = [column(key, falling(STEPS, random), at) for key in keys]
    log_series(ws, run, rows, writer="w", number=1)
    long = falling(LONG_POINTS, random)
    long[654_321] = 9.5
    log_series(ws, run, [column("train/loss", long, at), column("train/reward", -long, at)], writer="w", number=2)
    log_batch(ws, run, metrics=[], params={"seed": 7}, tags={"note": "everything at once"})
    for number in range(60):
        log_artifact(ws, run, f"checkpoints/step-{number}.txt", b"weights")
    world.tick(ws, hours=3, minutes=12)
    end_run(ws, run)
    return run


def a_run(ws: Workspace, number: int, random: np.random.Generator) -> str:
    """One of many runs."""
    params = {
        "depth": str(2 + number % 7),
        "rate": f"{0.3 / (1 + number % 11):.4g}",
        "optimiser": ("adam", "sgd")[number % 2],
        "data": "flights@3",
    }
    run = start_run(ws, f"sweep-{number % 3}", name=f"trial {number}", params=params).id
    at = micros(ws.clock.now())
    keys = [f"fold.{place // len(WORDS)}/{WORDS[place % len(WORDS)]}" for place in range(METRICS - 1)] + ["auc"]
    log_series(ws, run, [column(key, falling(STEPS, random), at) for key in keys], writer="w", number=1)
    world.tick(ws, seconds=40)
    end_run(ws, run)
    return run


def falling(count: int, random: np.random.Generator) -> np.ndarray:
    """Numbers that fall as a loss does, with noise."""
    return random.uniform(0.6, 1.4) / (1 + np.arange(count) * 8 / count) + random.normal(0, 0.02, count)


def column(key: str, values: np.ndarray, at: int) -> Series:
    """Points of one metric, one a second."""
    steps = np.arange(len(values), dtype="<i8")
    return Series(
        key=key, values=values.astype("<f8").tobytes(), steps=steps.tobytes(), times=(at + steps * 1_000_000).astype("<i8").tobytes()
    )
