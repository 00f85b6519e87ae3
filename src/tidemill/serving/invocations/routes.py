"""MLflow's scoring protocol and SageMaker's container contract: both ask `POST /invocations` and `GET /ping`.

What a request is shows in its content type: JSON is MLflow's, JSON Lines SageMaker's, CSV either's. CSV without a header fills
the columns in their order; `text/csv; header=absent` (RFC 4180, section 3) says so, else the first line tells. The answer is JSON
unless the Accept header names CSV or JSON Lines. Prediction ids are in the header `tidemill-prediction-ids`, in the answer when
they are too many for it, and on each line of JSON Lines, for SageMaker passes no headers of ours on.

With several endpoints `/endpoints/NAME/invocations` says which, or `X-Amzn-SageMaker-Target-Model`; `/endpoints/NAME` is also the
prefix of ping, health and version, so that clients that know a base address only can be pointed at one endpoint.
"""

import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import NamedTuple

from tidemill.core.codec import Raw, decode, encode
from tidemill.core.errors import Conflict, Invalid, NotFound, NotPermitted, TidemillError, Unavailable
from tidemill.serving.frames import encode_predictions, id_lines, predictions_of, read_instances, read_json, read_matrix, read_records
from tidemill.serving.http import Reply, Request
from tidemill.serving.invocations.text import read_csv, read_lines, write_csv
from tidemill.serving.invocations.wire import AnswerLine, ErrorAnswer, ScoringRequest, SplitFrame
from tidemill.serving.parameters import Parameters, read_parameters
from tidemill.serving.predict import Answered, Endpoint
from tidemill.serving.problems import MethodRefused, NotAuthenticated, RouteNotFound, TooBusy, headers_of, status_of
from tidemill.serving.rows import Rows, RowsRefused
from tidemill.serving.world import World

JSON, CSV, LINES = b"application/json", b"text/csv", b"application/jsonlines"
_VERBS = frozenset({"invocations", "ping", "health", "version"})
_BARE = frozenset(f"/{verb}".encode() for verb in _VERBS)
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_VISIBLE = re.compile(rb"[\x20-\x7e]{0,1024}")
_HEADER = {"present": True, "absent": False}

# The nearest class up the hierarchy counts.
_CODES: Mapping[type[TidemillError], str] = {
    RouteNotFound: "ENDPOINT_NOT_FOUND",
    MethodRefused: "ENDPOINT_NOT_FOUND",
    NotAuthenticated: "UNAUTHENTICATED",
    NotFound: "RESOURCE_DOES_NOT_EXIST",
    Conflict: "RESOURCE_CONFLICT",
    Invalid: "BAD_REQUEST",
    NotPermitted: "PERMISSION_DENIED",
    TooBusy: "REQUEST_LIMIT_EXCEEDED",
    Unavailable: "TEMPORARILY_UNAVAILABLE",
    TidemillError: "INTERNAL_ERROR",
}


class ContentTypeRefused(Invalid):
    """The body is announced as something that is not read here."""

    def __init__(self, got: str, why: str) -> None:
        self.got = got
        super().__init__(f"content type {got[:200]!r} {why}; expected application/json, text/csv or application/jsonlines, in UTF-8")


class EndpointUnsaid(Invalid):
    """Several endpoints are served and the caller names none."""

    def __init__(self, known: list[str]) -> None:
        self.known = known
        super().__init__(
            f"there are several endpoints here ({', '.join(sorted(known)[:20])}); say which: POST /endpoints/{min(known)}/invocations"
        )


class NothingServed(NotFound):
    """There is no endpoint at all."""

    def __init__(self) -> None:
        super().__init__("no endpoint is served here yet; create one with: tidemill endpoint create NAME --model MODEL")


class VariantNotChosen(Invalid):
    """A caller wants to choose the variant, which is for the endpoint's route policy to do."""

    def __init__(self, endpoint: str, variant: str, answering: list[str]) -> None:
        self.variant = variant
        super().__init__(
            f"X-Amzn-SageMaker-Target-Variant: endpoint {endpoint!r} shares out its rows by its own policy "
            f"(answering: {', '.join(answering)}), and cannot let {variant[:200]!r} alone answer; leave the header out"
        )


class Call(NamedTuple):
    """What a path asks for: of which endpoint, when it says so, and what."""

    endpoint: str | None
    verb: str  # "invocations", "ping", "health" or "version"


class InvocationRoutes:
    """Answers the protocols' requests."""

    def error_reply(self, error: TidemillError) -> Reply:
        """Return an error in MLflow's shape. Its scoring server knows no 422; a content type is refused with its 415."""
        status = status_of(error)
        if isinstance(error, RowsRefused):
            status = 400
        elif isinstance(error, ContentTypeRefused):
            status = 415
        code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
        return Reply(status, encode(ErrorAnswer(error_code=code, message=str(error))), extra=headers_of(error))

    def tell(self, verb: str, *, ready: bool) -> Reply:
        """Answer ping, health and version."""
        if verb == "version":
            return Reply(200, version("tidemill").encode())
        return Reply(200 if ready else 503, b"\n")

    def endpoint_of(self, call: Call, world: World, headers: Mapping[bytes, bytes]) -> str:
        """Return the name of the endpoint that is asked. Raises EndpointUnsaid, NothingServed."""
        if call.endpoint is not None:
            return call.endpoint
        target = headers.get(b"x-amzn-sagemaker-target-model")
        if target:
            return target.decode("utf-8", "replace")
        if len(names := world.names) > 1:
            raise EndpointUnsaid(names)
        if not names:
            raise NothingServed
        return names[0]

    def decode(self, endpoint: Endpoint, request: Request) -> Rows:
        """Read a request as rows. Raises Invalid, RowsRefused."""
        _check_variant(endpoint, request.headers)
        _custom_attributes(request.headers)
        media, header = _content_type(request.headers.get(b"content-type", JSON))
        if media == CSV:
            rows = read_csv(endpoint, request.body, header=header)
        elif media == LINES:
            rows = read_lines(endpoint, request.body)
        else:
            rows = _read_json(endpoint, request.body)
        if rows.ids is None:
            rows.ids = _inference_ids(request.headers, rows.count)
        return rows

    def answer(self, request: Request, endpoint: Endpoint, rows: Rows, answered: Answered) -> Reply:
        """Return the answer in the form that the caller accepts."""
        attributes = _custom_attributes(request.headers)
        extra = id_lines(rows, answered)
        if attributes is not None:
            extra += b"x-amzn-sagemaker-custom-attributes: %b\r\n" % attributes
        media = _accepted(request.headers.get(b"accept", b""))
        if media == CSV:
            body = write_csv(predictions_of(endpoint, answered))
        elif media == LINES:
            told = zip(predictions_of(endpoint, answered), answered.ids, strict=True)
            body = b"".join(b"%b\n" % encode(AnswerLine(prediction=prediction, id=unit)) for prediction, unit in told)
        else:
            body = encode_predictions(endpoint, rows, answered)
        return Reply(200, body, media=media, extra=extra)


def speaks(path: bytes) -> bool:
    """Return whether a path is one of these protocols."""
    return path in _BARE or path.startswith(b"/endpoints/")


def call_of(path: bytes) -> Call:
    """Read `/VERB` or `/endpoints/[PROJECT/]NAME/VERB`. Raises RouteNotFound."""
    if path in _BARE:
        return Call(None, path[1:].decode())
    text = path.decode("utf-8", "replace")
    _, _, *names, verb = text.split("/")
    if verb not in _VERBS or not 1 <= len(names) <= 2 or "" in names:
        raise RouteNotFound(text[:200])
    return Call("/".join(names), verb)


def _read_json(endpoint: Endpoint, body: bytes) -> Rows:
    request = read_json(body, ScoringRequest, what="scoring request")
    given = {form: found for form in _FORMS if isinstance(found := getattr(request, form), Raw)}
    if len(given) != 1:
        raise Invalid(
            f"scoring request must be a JSON object with exactly one of {', '.join(_FORMS)}; it has {', '.join(given) or 'none of them'}"
        )
    ((form, found),) = given.items()
    parameters = read_parameters(request.params or {})
    data = bytes(found)
    if form == "dataframe_split":
        return _read_split(endpoint, data, parameters)
    if form == "dataframe_records":
        if not data.startswith(b"["):
            raise Invalid("dataframe_records is no list; expected a list of objects, one a row")
        return read_records(endpoint, data, parameters)
    return read_instances(endpoint, data, parameters, what=form)


def _read_split(endpoint: Endpoint, data: bytes, parameters: Parameters) -> Rows:
    frame = decode(data, SplitFrame, what="dataframe_split")
    names = None if frame.columns is None else [str(name) for name in frame.columns]
    if frame.columns == list(range(len(frame.columns or ()))):
        names = None  # a frame made of an array numbers its columns
    return read_matrix(endpoint, bytes(frame.data), names, parameters, what="data of dataframe_split")


def _content_type(header: bytes) -> tuple[bytes, bool | None]:
    """Return the media type, and what a CSV's says of its first line. Raises ContentTypeRefused."""
    text = header.decode("latin-1")
    media, *pairs = (part.strip().lower() for part in text.split(";"))
    first_line: bool | None = None
    for pair in filter(None, pairs):
        name, _, value = pair.partition("=")
        value = value.strip('" ')
        if name == "charset" and value in ("utf-8", "utf8"):
            continue
        if name != "header" or media != "text/csv" or value not in _HEADER:
            raise ContentTypeRefused(text, f"has the parameter {pair[:100]!r}, which is not understood")
        first_line = _HEADER[value]
    if media == "application/x-jsonlines":
        return LINES, None
    if (found := media.encode("latin-1")) not in (JSON, CSV, LINES):
        raise ContentTypeRefused(text, "is not read here")
    return found, first_line


def _accepted(header: bytes) -> bytes:
    """Return the first media type of an Accept header that there are answers in; JSON when there is none."""
    for part in header.lower().split(b","):
        media = part.partition(b";")[0].strip()
        if media in (JSON, CSV, LINES):
            return media
        if media == b"application/x-jsonlines":
            return LINES
    return JSON


def _check_variant(endpoint: Endpoint, headers: Mapping[bytes, bytes]) -> None:
    wanted = headers.get(b"x-amzn-sagemaker-target-variant")
    if wanted is not None:
        name = wanted.decode("latin-1")
        answering = sorted(name for name, share in endpoint.config.route.shares.items() if share > 0)
        if answering != [name]:
            raise VariantNotChosen(endpoint.config.key, name, answering)


def _custom_attributes(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return what the caller wants to see again. Raises Invalid."""
    found = headers.get(b"x-amzn-sagemaker-custom-attributes")
    if found is not None and not _VISIBLE.fullmatch(found):
        raise Invalid("X-Amzn-SageMaker-Custom-Attributes was not understood; expected at most 1024 visible ASCII characters")
    return found


def _inference_ids(headers: Mapping[bytes, bytes], count: int) -> list[str] | None:
    """Return SageMaker's inference id as prediction ids: as it is for one row, with the row's number behind it for several."""
    found = headers.get(b"x-amzn-sagemaker-inference-id")
    if not found:
        return None
    if not _VISIBLE.fullmatch(found) or len(found) > 128:
        raise Invalid("X-Amzn-SageMaker-Inference-Id was not understood; expected at most 128 visible ASCII characters")
    name = found.decode()
    return [name] if count == 1 else [f"{name}-{row}" for row in range(count)]
