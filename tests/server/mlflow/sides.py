"""The same calls against two servers: what each answered, told alike, so that answers can be compared field by field."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import requests

API = "/api/2.0/mlflow"
API3 = "/api/3.0/mlflow"
_IDS = re.compile(r"(?:m-|a-|tr-)?[0-9a-f]{32}")
_EXPERIMENT = re.compile(r"(mlflow-artifacts:/)(\d+)")
_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")
_MOMENT = re.compile(r"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_EPOCH_MS = 1_750_000_000_000  # what is later was read from a clock while the test ran; scripted times lie before
_KEYED = frozenset({"tags", "params", "metrics", "trace_metadata", "request_metadata", "aliases", "dataset_summaries"})
_EXPERIMENT_FIELDS = frozenset({"experiment_id"})


class Answer:
    """What a server said to one request."""

    def __init__(self, label: str, status: int, body: Any, raw: Any) -> None:
        self.label, self.status, self.body, self.raw = label, status, body, raw


class Side:
    """One server, and all that it answered."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.answers: list[Answer] = []
        self._session = requests.Session()
        self._known: dict[str, str] = {}
        self._labels: Counter[str] = Counter()
        self._label, self._count, self._fresh = "", 0, 0

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Let answers of a block go by a label (with a mark when it was there before) and a number."""
        self._labels[label] += 1
        self._label, self._count = label if self._labels[label] == 1 else f"{label} #{self._labels[label]}", 0
        yield

    def send(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Send JSON (a body), or what `data`, `params` and `headers` say; return the answer's JSON, {} when it has none."""
        if body is not None:
            more["json"] = body
        answer = self._session.request(method, self.url + path, timeout=60, **more)
        return self.keep(answer).raw

    def get(self, path: str, **params: Any) -> Any:
        return self.send("GET", path, params=params)

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        return self.send("POST", path, {} if body is None and "data" not in more else body, **more)

    def raw(self, method: str, path: str, body: bytes) -> None:
        """Send a path as it stands, which other clients would put in order first."""
        place = urlsplit(self.url)
        connection = HTTPConnection(place.hostname or "", place.port or 80, timeout=60)
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        found = requests.Response()
        found.status_code, found._content = answer.status, answer.read()
        found.headers["content-type"] = answer.headers.get("content-type", "")
        connection.close()
        self.keep(found)

    def keep(self, answer: requests.Response) -> Answer:
        """Note an answer under the label at hand."""
        self._count, self._fresh = self._count + 1, 0
        try:
            raw = answer.json()
        except ValueError:
            raw = {}
        kind = answer.headers.get("content-type", "").partition(";")[0]
        body = raw if kind == "application/json" else {"text": answer.text if answer.status_code < 300 else "<text>"}
        found = Answer(self._place, answer.status_code, self.alike(body), raw if isinstance(raw, dict) else {})
        self.answers.append(found)
        return found

    def note(self, what: Any) -> None:
        """Note something that a client returned."""
        self._count, self._fresh = self._count + 1, 0
        self.answers.append(Answer(self._place, 0, self.alike(what), {}))

    def alike(self, value: Any, field: str = "") -> Any:
        """Return a value with ids, clock times, tokens and made-up names replaced by what they stand for."""
        if isinstance(value, dict):
            return {key: self.alike(item, key) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [self.alike(item, field) for item in value]
            return sorted(items, key=_order) if field in _KEYED and all(isinstance(item, dict) for item in items) else items
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, (int, float)):
            return _alike_number(value)
        return self._alike_text(value, field) if isinstance(value, str) else repr(value)

    def _alike_text(self, text: str, field: str) -> str:
        if field == "next_page_token":
            return "<token>" if text else ""
        if field == "message":
            return "<message>"
        if field in _EXPERIMENT_FIELDS:
            return self._name(f"experiment {text}")
        if _NAME.fullmatch(text):
            return "<name>"
        text = _MOMENT.sub("<moment>", text)
        text = _EXPERIMENT.sub(lambda m: m[1] + self._name(f"experiment {m[2]}"), text)
        return _IDS.sub(lambda m: self._name(m[0]), text)

    @property
    def _place(self) -> str:
        return f"{self._label}/{self._count}" if self._count > 1 else self._label

    def _name(self, identifier: str) -> str:
        """Return what an id goes by: the answer in which it was first seen."""
        if identifier not in self._known:
            self._fresh += 1
            self._known[identifier] = f"<{self._fresh} of {self._place}>"
        return self._known[identifier]


@contextmanager
def listening(side: Side) -> Iterator[None]:
    """Note what MLflow's own client sends and gets while a block runs."""
    send = requests.Session.send

    def noted(session: requests.Session, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        answer = send(session, request, **more)
        if not more.get("stream") and urlsplit(request.url or "").path not in ("/version", "/api/3.0/mlflow/server-info"):
            side.keep(answer)
        return answer

    requests.Session.send = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        requests.Session.send = send  # type: ignore[method-assign]


def attempt(side: Side, act: Callable[[], Any]) -> Any:
    """Run a call of MLflow's client; note how it failed, if it does."""
    from mlflow.exceptions import MlflowException

    try:
        return act()
    except MlflowException as error:
        side.note({"raised": error.error_code})
        return None


def _alike_number(value: float) -> str | float:
    if value != value:
        return "<nan>"
    if _EPOCH_MS < value < 1e15:
        return "<now>"
    return float(value) if value else 0.0  # SQLite keeps no sign of zero


def _order(item: Mapping[str, Any]) -> str:
    return json.dumps(item, sort_keys=True)
