"""The HTTP calls as an OpenAPI document, generated from the types that validate the requests; and a page to read it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from partyline import __version__
from partyline.relay.access import Access
from partyline.relay.classic.api import Publish, TopicChange
from partyline.relay.classic.registering import Register
from partyline.relay.requests import TOPIC_SCHEMA, answer, peer
from partyline.relay.v1.api import ONE_OF_THE_TWO, Revocation
from partyline.relay.v1.publishing import MAX_BATCH, Batch, NewMessage
from partyline.relay.v1.reading import MAX_PAGE
from partyline.relay.values import (
    ClassicReceipt,
    Connections,
    Error,
    Health,
    HistoryPage,
    Published,
    PublishedBatch,
    Registered,
    Revoked,
    Status,
    StreamEvent,
    TopicCounts,
    TopicsOf,
    Users,
)


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    about: str
    answers: type[msgspec.Struct]
    body: type[msgspec.Struct] | None = None
    query: tuple[tuple[str, dict[str, Any], str], ...] = ()  # name, schema, what it is
    errors: tuple[int, ...] = ()
    media: str = "application/json"


_AFTER: Final = (
    "after",
    {"type": "string", "pattern": "^([0-9a-f]{16}-(0|[1-9][0-9]{0,14})|earliest|latest)$"},
    "a position (exclusive), earliest or latest",
)
_LIMIT: Final = ("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}, "messages of a page")
_TOKEN: Final = ("token", {"type": "string"}, "a token that lives 5 minutes at most, where no header can be sent")
_BODY: Final = (400, 413, 415, 422)
_CALLS: Final = (
    _Call("get", "/health", "Whether the server runs and its log accepts messages.", Health, errors=(503,)),
    _Call("post", "/register", "Register a user; the answer is a WebSocket address.", Registered, Register, (),
          (*_BODY, 401, 403, 429, 503)),
    _Call("delete", "/register/{id}", "Unregister; a live connection of it is closed.", Status, errors=(401, 404)),
    _Call("post", "/add_topic", "Add a topic to a registration.", TopicsOf, TopicChange, (), (*_BODY, 401, 403, 404)),
    _Call("delete", "/remove_topic", "Take a topic from a registration.", TopicsOf, TopicChange, (),
          (*_BODY, 401, 403, 404)),
    _Call("post", "/publish", "Publish to a topic, to all or to one user.", ClassicReceipt, Publish, (),
          (*_BODY, 401, 403, 503, 507)),
    _Call("post", "/v1/topics/{topic}/messages", "Publish one message.", Published, NewMessage, (),
          (*_BODY, 401, 403, 409, 503, 507)),
    _Call("get", "/v1/topics/{topic}/messages", "A page of history, oldest first.", HistoryPage, None,
          (_AFTER, _LIMIT), (401, 403, 422)),
    _Call("get", "/v1/topics/{topic}/events", "Messages as server-sent events.", StreamEvent, None, (_AFTER, _TOKEN),
          (401, 403, 422), "text/event-stream"),
    _Call("get", "/v1/topics/{topic}/presence", "The users of a topic.", Users, errors=(401, 403, 422)),
    _Call("get", "/v1/topics", "Topics with connections.", TopicCounts, errors=(401, 403)),
    _Call("post", "/v1/publish", f"Publish up to {MAX_BATCH} messages, all or none.", PublishedBatch, Batch, (),
          (*_BODY, 401, 403, 409, 503, 507)),
    _Call("get", "/v1/connections", "Live connections.", Connections, errors=(401, 403)),
    _Call("delete", "/v1/connections/{id}", "Close a connection by its public id.", Status, errors=(401, 403, 404)),
    _Call("post", "/v1/revocations", "Revoke a user's tokens, or one token by its id; sub or jti.", Revoked, Revocation,
          (), (*_BODY, 401, 403, 503)),
)  # fmt: skip
_REASONS: Final = {
    400: "Not JSON, or nested too deep.",
    401: "No credential, or an invalid one.",
    403: "Not allowed: the rights, the Host or the Origin.",
    404: "It does not exist.",
    409: "The message id was used for another message.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "JSON of another shape, or a value out of its range.",
    429: "Too often; Retry-After says when.",
    503: "Not now; come back later.",
    507: "The log has reached its limit of topics.",
}


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    types = [kind for call in _CALLS for kind in (call.body, call.answers) if kind is not None]
    _, schemas = msgspec.json.schema_components([*types, Error], ref_template="#/components/schemas/{name}")
    schemas[Revocation.__name__]["oneOf"] = ONE_OF_THE_TWO
    paths: dict[str, dict[str, Any]] = {}
    for call in _CALLS:
        paths.setdefault(call.path, {})[call.method] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Partyline", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}, {}],
    }


def _operation(call: _Call) -> dict[str, Any]:
    names = [part[1:-1] for part in call.path.split("/") if part.startswith("{")]
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": TOPIC_SCHEMA if name == "topic" else {"type": "string"},
        }
        for name in names
    ]
    parameters += [
        {"name": name, "in": "query", "description": about, "schema": schema} for name, schema, about in call.query
    ]
    responses: dict[str, Any] = {
        "200": {"description": "Done.", "content": {call.media: {"schema": _reference(call.answers)}}}
    }
    for status in sorted({*call.errors, 400, 403, 421}):
        responses[str(status)] = {
            "description": _REASONS.get(status, "The Host is not one of this server's."),
            "content": {"application/json": {"schema": _reference(Error)}},
        }
    operation: dict[str, Any] = {"summary": call.about, "parameters": parameters, "responses": responses}
    if call.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(call.body)}},
        }
    return operation


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


@lru_cache(maxsize=1)
def page() -> str:
    """The document as one page, without scripts or external resources."""
    calls = []
    for call in _CALLS:
        body = "" if call.body is None else f"<h3>Body</h3>{_fields(call.body.__name__)}"
        media = "" if call.media == "application/json" else f"<p>{call.media}</p>"
        answers = media + _fields(call.answers.__name__)
        query = "".join(f"<li><code>{name}</code> {html.escape(about)}</li>" for name, _, about in call.query)
        errors = ", ".join(str(status) for status in call.errors) or "-"
        calls.append(
            f"<section><h2><b>{call.method.upper()}</b> <code>{html.escape(call.path)}</code></h2>"
            f"<p>{html.escape(call.about)}</p>{f'<ul>{query}</ul>' if query else ''}{body}"
            f"<h3>Answer</h3>{answers}<p class=errors>Errors: {errors}</p></section>"
        )
    return _PAGE.replace("{version}", __version__).replace("{calls}", "".join(calls))


def _fields(name: str) -> str:
    schema = document()["components"]["schemas"][name]
    required = schema.get("required", ())
    rows = []
    for field, about in schema["properties"].items():
        mark = "" if field in required else "?"
        rows.append(f"<li><code>{html.escape(field)}{mark}</code> {html.escape(_type(about))}</li>")
    return f"<ul>{''.join(rows)}</ul>"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return str(schema.get("type", "any JSON"))


_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Partyline {version}: HTTP calls</title>
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
  body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
  section { border-top: 1px solid #8886; padding: .5rem 0; }
  h2 { font-size: 1.05rem; margin: .4rem 0; } h2 b { display: inline-block; min-width: 4.5rem; }
  h3 { font-size: .85rem; margin: .6rem 0 0; opacity: .75; } ul { margin: .2rem 0; padding-left: 1.2rem; }
  p { margin: .2rem 0; } .errors { font-size: .85rem; opacity: .75; }
</style>
<h1>Partyline {version}</h1>
<p>The HTTP calls. The same for programs: <a href="/openapi.json">openapi.json</a>. Keys and tokens go in
<code>Authorization: Bearer ...</code>; every error is <code>{"error": {"code", "message", "field"?}}</code>.</p>
{calls}
</html>
"""


def _look(request: Request, access: Access) -> None:
    if not peer(request).local:
        access.principal(request)


def routes(access: Access) -> list[Route]:
    """`/openapi.json` and `/docs`; they need a key unless the server is for this machine only."""

    async def openapi(request: Request) -> Response:
        _look(request, access)
        return answer(document())

    async def docs(request: Request) -> Response:
        _look(request, access)
        return HTMLResponse(
            page(), headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        )

    return [Route("/openapi.json", openapi, methods=["GET"]), Route("/docs", docs, methods=["GET"])]
