"""Artifacts by addresses that need no key: uploads in parts, and single files to get or put."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tidemill.core.clock import wall
from tidemill.core.codec import encode
from tidemill.core.errors import Invalid
from tidemill.core.values import Wire
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow import bodies, uploads
from tidemill.server.mlflow.artifacts import give, keep_body, read_stored
from tidemill.server.mlflow.endpoint import Endpoint, read_body
from tidemill.server.mlflow.exchange import Exchange, Stream
from tidemill.server.mlflow.paths import safe_path
from tidemill.server.mlflow.runs import read_run
from tidemill.server.mlflow.tickets import Ticket, address, issue, read
from tidemill.server.mlflow.wire import Filled, Int64
from tidemill.tracking import files, logged_models

MPU = "/mlflow-artifacts/mpu"
SIGNED = "/api/2.0/mlflow-artifacts/signed"
EXPIRATION_S = 900
EXPIRATION_MAX_S = 7 * 24 * 3600
_JSON = b"application/json"
_BODY_MAX = 16 << 20


class CreateUpload(Wire, frozen=True, kw_only=True):
    """What is to be uploaded: the file's name on the caller's machine, and in how many parts it comes."""

    path: Filled
    num_parts: Int64 = 1


class Part(Wire, frozen=True, kw_only=True):
    """A part as it was acknowledged."""

    part_number: Int64
    etag: str = ""


class EndUpload(Wire, frozen=True, kw_only=True):
    """An upload that is whole, or given up."""

    path: Filled
    upload_id: Filled
    parts: tuple[Part, ...] = ()


class Presign(Wire, frozen=True, kw_only=True):
    """A file of a run, or of a logged model, that is to be got or put by an address of its own."""

    path: Filled
    run_id: str = ""
    model_id: str = ""
    expiration: Int64 = EXPIRATION_S


def _reader(shape: type[Wire]) -> Endpoint:
    return Endpoint("POST", "", shape, lambda ws, request: None)


_CREATE, _END, _PRESIGN = _reader(CreateUpload), _reader(EndUpload), _reader(Presign)


async def create_upload(exchange: Exchange, path: str) -> None:
    """Begin an upload in parts; say where to put each."""
    body = await exchange.receive_body(_BODY_MAX)

    def begin() -> bytes:
        ws, request = exchange.enter(), read_body(_CREATE, body, {})
        target = safe_path(f"{path.rstrip('/')}/{_name(request.path)}")
        ws.require("tracking.write", target)
        made = uploads.begin(ws.state, ws.project, target, request.num_parts)
        ticket = issue(ws.state, _ticket(ws, "part", f"{made.id}/{target}", uploads.LIFETIME_S))
        credentials = [
            {"url": address(exchange, f"{SIGNED}/part/{number}/{ticket}"), "part_number": number, "headers": {}}
            for number in range(1, made.parts + 1)
        ]
        return encode({"upload_id": made.id, "credentials": credentials})

    await exchange.answer(200, await exchange.run(begin), _JSON)


async def put_part(exchange: Exchange, number: str, ticket: str) -> None:
    """Keep one part of an upload; its tag is in the header ETag."""
    state = exchange.access.state
    upload, _, target = read(state, ticket, act="part").subject.partition("/")
    folder = await exchange.run(uploads.folder_of, state, upload)
    found = await exchange.run(_find_upload, state, ticket, upload, target)
    if not number.isdecimal() or not 1 <= int(number) <= found.parts:
        raise Invalid(f"upload {upload} was announced with {found.parts} parts; there is no part {number}")
    taken = await bodies.take(exchange, folder)
    try:
        tag = await exchange.run(uploads.keep_part, folder, int(number), taken)
    finally:
        if taken.path is not None:
            taken.path.unlink(missing_ok=True)
    await exchange.answer(200, b"", _JSON, [(b"etag", f'"{tag}"'.encode())])


async def complete_upload(exchange: Exchange, path: str) -> None:
    """Put an upload together and keep it. Completing it again changes nothing."""
    body = await exchange.receive_body(_BODY_MAX)

    def complete() -> bytes:
        ws, request, target = _end(exchange, body, path)
        upload = uploads.find(ws.state, request.upload_id, project=ws.project, path=target)
        if upload.digest is None:
            folder = uploads.folder_of(ws.state, upload.id)
            whole = uploads.put_together(folder, upload, {part.part_number: part.etag for part in request.parts})
            assert whole.path is not None
            assert whole.digest is not None
            ws.objects.adopt(whole.path, whole.digest)
            files.keep_file(ws, target, whole.digest, whole.size_bytes)
            uploads.finish(folder, upload, whole.digest, whole.size_bytes)
        return b"{}"

    await exchange.answer(200, await exchange.run(complete), _JSON)


async def abort_upload(exchange: Exchange, path: str) -> None:
    """Give an upload up."""
    body = await exchange.receive_body(_BODY_MAX)

    def abort() -> bytes:
        ws, request, target = _end(exchange, body, path)
        uploads.abort(ws.state, uploads.find(ws.state, request.upload_id, project=ws.project, path=target))
        return b"{}"

    await exchange.answer(200, await exchange.run(abort), _JSON)


async def presigned_download(exchange: Exchange, path: str) -> None:
    """Say where a file can be got in ranges, several at a time."""

    def sign() -> bytes:
        ws = exchange.enter()
        found = files.find_file(ws, safe_path(path))
        ticket = issue(ws.state, _ticket(ws, "get", found.path, EXPIRATION_S))
        return encode({"url": address(exchange, f"{SIGNED}/{ticket}"), "headers": {}, "file_size": found.size_bytes})

    await exchange.answer(200, await exchange.run(sign), _JSON)


async def presign_upload(exchange: Exchange) -> None:
    """Say where a file of a run or logged model can be put."""
    await _presign(exchange, "put")


async def presign_download(exchange: Exchange) -> None:
    """Say where a file of a run can be got."""
    await _presign(exchange, "get")


async def get_signed(exchange: Exchange, ticket: str) -> None:
    """Give the file that a ticket names."""

    def find() -> tuple[str, Path | bytes]:
        ws, path = _with_ticket(exchange, ticket, "get")
        found = files.find_file(ws, path)
        return path, ws.objects.local_path(found.digest) if exchange.header(b"range") else read_stored(ws, found)

    path, found = await exchange.run(find)
    await give(exchange, path, found)


async def put_signed(exchange: Exchange, ticket: str) -> None:
    """Keep the body under the path that a ticket names."""
    _, path = await exchange.run(_with_ticket, exchange, ticket, "put")
    await keep_body(exchange, path, lambda: _with_ticket(exchange, ticket, "put")[0])
    await exchange.answer(200, b"", _JSON)


async def _presign(exchange: Exchange, act: str) -> None:
    body = await exchange.receive_body(_BODY_MAX)

    def sign() -> bytes:
        ws, request = exchange.enter(), read_body(_PRESIGN, body, {})
        path = safe_path(f"{_root(ws, request)}/{safe_path(request.path)}")
        if not 1 <= request.expiration <= EXPIRATION_MAX_S:
            raise Invalid(f"expiration must be between 1 and {EXPIRATION_MAX_S} seconds, got {request.expiration}")
        told: dict[str, Any] = {}
        if act == "get":
            told["file_size"] = files.find_file(ws, path).size_bytes
        else:
            ws.require("tracking.write", path)
        ticket = issue(ws.state, _ticket(ws, act, path, request.expiration))
        return encode({"presigned_url": address(exchange, f"{SIGNED}/{ticket}"), **told})

    await exchange.answer(200, await exchange.run(sign), _JSON)


def _root(ws: Workspace, request: Presign) -> str:
    if bool(request.run_id) == bool(request.model_id):
        raise Invalid("Exactly one of run_id and model_id must be provided")
    if request.run_id:
        run = read_run(ws, request.run_id)
        return files.run_folder(run.experiment_id, run.id)
    model = logged_models.read_logged_model(ws, request.model_id)
    return files.model_folder(model.experiment_id, model.id)


def _end(exchange: Exchange, body: bytes, path: str) -> tuple[Workspace, EndUpload, str]:
    ws, request = exchange.enter(), read_body(_END, body, {})
    target = safe_path(f"{path.rstrip('/')}/{_name(request.path)}")
    ws.require("tracking.write", target)
    return ws, request, target


def _find_upload(state: Path, ticket: str, upload: str, target: str) -> uploads.Upload:
    return uploads.find(state, upload, project=read(state, ticket, act="part").project, path=target)


def _with_ticket(exchange: Exchange, ticket: str, act: str) -> tuple[Workspace, str]:
    """Open the workspace for the actor who asked for the ticket, with the role that it has now."""
    known = read(exchange.access.state, ticket, act=act)
    return exchange.access.enter_as(known.actor, known.project), known.subject


def _ticket(ws: Workspace, act: str, subject: str, lifetime_s: int) -> Ticket:
    return Ticket(act=act, project=ws.project, actor=ws.actor.id, subject=subject, ends=int(wall()) + lifetime_s)


def _name(path: str) -> str:
    """Return the name of a file by its path on the caller's machine, whatever system that has."""
    return re.split(r"[/\\]", path)[-1]


def _posts(name: str, handler: Callable[..., Any]) -> Stream:
    return Stream("POST", tuple(f"/{api}/2.0{MPU}/{name}/{{path:path}}" for api in ("api", "ajax-api")), handler)


def _both(path: str) -> tuple[str, ...]:
    return (f"/api/2.0{path}", f"/ajax-api/2.0{path}")


STREAMS = (
    _posts("create", create_upload),
    _posts("complete", complete_upload),
    _posts("abort", abort_upload),
    Stream("PUT", (SIGNED + "/part/{number}/{ticket}",), put_part),
    Stream("GET", _both("/mlflow-artifacts/presigned/{path:path}"), presigned_download),
    Stream("POST", _both("/mlflow/artifacts/presigned-upload-url"), presign_upload),
    Stream("POST", _both("/mlflow/artifacts/presigned-download-url"), presign_download),
    Stream("GET", (SIGNED + "/{ticket}",), get_signed),
    Stream("PUT", (SIGNED + "/{ticket}",), put_signed),
)
