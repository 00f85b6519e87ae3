"""Search params: a small, seeded, pruned budget of trials, each told to the caller as it ends."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from tidemill.core.errors import ExtraMissing, Invalid
from tidemill.core.values import Value


class Real(Value, frozen=True, kw_only=True, tag="real", tag_field="kind"):
    """A number between low and high, searched by its order of magnitude when log."""

    low: float
    high: float
    log: bool = False


class Whole(Value, frozen=True, kw_only=True, tag="whole", tag_field="kind"):
    """A whole number between low and high, both included."""

    low: int
    high: int
    log: bool = False


class Choice(Value, frozen=True, kw_only=True, tag="choice", tag_field="kind"):
    """One of some options."""

    options: tuple[str | int | float | bool, ...]


Range = Real | Whole | Choice
Space = Mapping[str, Range]
TrialState = Literal["complete", "pruned"]
Report = Callable[[int, float], None]
Objective = Callable[[dict[str, Any], Report], float]


class Trial(Value, frozen=True, kw_only=True):
    """One try: what was chosen and what came of it. values are what it reported on its way, by step."""

    number: int
    params: dict[str, str | int | float | bool]
    state: TrialState
    value: float | None
    values: dict[int, float]


class Tuning(Value, frozen=True, kw_only=True):
    """A finished search."""

    best: Trial
    trials: tuple[Trial, ...]
    direction: Literal["maximize", "minimize"]
    seed: int


def tune(
    objective: Objective,
    space: Space,
    *,
    trials: int,
    seed: int,
    first: Mapping[str, Any] | None = None,
    direction: Literal["maximize", "minimize"] = "maximize",
    on_trial: Callable[[Trial], None] | None = None,
) -> Tuning:
    """Try params and return the best. objective gets the params and a report(step, value) to call on its way; it returns the last value.

    A trial whose reports fall behind the median of earlier ones at that step is ended early. first is tried first (the params in use, so
    that tuning never makes them worse on its own measure). The same objective, space and seed give the same trials.
    Sampler: multivariate TPE. Source: Bergstra et al., NeurIPS 2011. Raises Invalid for an empty space or budget.
    """
    if trials < 1 or not space:
        raise Invalid(f"tuning needs at least one trial and one param, got {trials} trials of {len(space)} params")
    optuna = _optuna()
    study = optuna.create_study(
        direction=direction,
        sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=min(5, trials)),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0),
    )
    if first is not None:
        study.enqueue_trial(dict(first))
    done = []
    for _ in range(trials):
        asked = study.ask()
        params = {name: _suggest(asked, name, space[name]) for name in space}
        values: dict[int, float] = {}
        try:
            final = objective(params, _reporter(asked, values))
        except _Pruned:
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            done.append(Trial(number=asked.number, params=params, state="pruned", value=None, values=values))
        else:
            study.tell(asked, final)
            done.append(Trial(number=asked.number, params=params, state="complete", value=final, values=values))
        if on_trial is not None:
            on_trial(done[-1])
    return Tuning(best=_best(done, direction), trials=tuple(done), direction=direction, seed=seed)


class _Pruned(Exception):
    """Ends a trial that has fallen behind."""


def _reporter(asked: Any, values: dict[int, float]) -> Report:
    def report(step: int, value: float) -> None:
        values[step] = value
        asked.report(value, step)
        if asked.should_prune():
            raise _Pruned

    return report


def _suggest(asked: Any, name: str, range_: Range) -> Any:
    if isinstance(range_, Real):
        return asked.suggest_float(name, range_.low, range_.high, log=range_.log)
    if isinstance(range_, Whole):
        return asked.suggest_int(name, range_.low, range_.high, log=range_.log)
    return asked.suggest_categorical(name, list(range_.options))


def _best(trials: list[Trial], direction: str) -> Trial:
    complete = [trial for trial in trials if trial.value is not None]  # the first is never pruned: there is nothing to fall behind
    sign = 1.0 if direction == "maximize" else -1.0
    return max(complete, key=lambda trial: (sign * float(trial.value or 0.0), -trial.number))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ExtraMissing("optuna", "ml") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
