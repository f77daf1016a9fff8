"""The OpenAPI document of the endpoints that clients use: `python -m router.openapi --write` puts it into docs/.

The gateway does not serve it. Request schemas say what the gateway itself reads; every other member belongs to the
model that answers, and is passed on. `/admin` is described in docs/policy-document.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from router.directives import Directives
from router.feedback import Feedback

FILE = Path(__file__).parents[1] / "docs" / "openapi.json"
Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "minItems": 1, "items": _TEXT}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 1}
_LIST: Schema = {"type": "array"}
_OBJECT: Schema = {"type": "object"}
_SOME_TEXT: Schema = {"type": "string", "minLength": 1}
_SOME_TEXTS: Schema = {"type": "array", "minItems": 1, "items": _SOME_TEXT}
_MODEL: Schema = {"anyOf": [{"enum": ["auto", "student", "teacher"]}, _SOME_TEXT], "description": "Or an alias."}
_ROUTER: Schema = {"$ref": "#/components/schemas/Directives"}
_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"type": "string", "enum": ["user", "assistant"]},
            "content": {"anyOf": [_SOME_TEXT, {"type": "array", "minItems": 1, "items": _OBJECT}]},
        },
    },
}
_ANY_ROLE: Schema = {**_MESSAGES, "items": {"type": "object", "required": ["role"], "properties": {"role": _TEXT}}}
_COMMON: Schema = {"model": _MODEL, "stream": {"type": "boolean"}, "router": _ROUTER}
REQUESTS: dict[str, tuple[str, list[str], Schema]] = {
    "/v1/chat/completions": (
        "A chat completion, in OpenAI's form.",
        ["model", "messages"],
        {
            **_COMMON, "messages": _ANY_ROLE, "n": _COUNT, "max_tokens": _COUNT, "max_completion_tokens": _COUNT,
            "store": {"type": "boolean"}, "stream_options": _OBJECT, "tools": _LIST, "reasoning_effort": _TEXT,
            "response_format": _OBJECT,
        },
    ),
    "/v1/completions": (
        "A completion of a prompt, in OpenAI's older form.",
        ["model", "prompt"],
        {**_COMMON, "prompt": {"anyOf": [_TEXT, _TEXTS]}, "max_tokens": _COUNT},
    ),
    "/v1/embeddings": (
        "Embeddings of texts or of token ids.",
        ["model", "input"],
        {
            "model": _SOME_TEXT, "input": {"anyOf": [_SOME_TEXT, _SOME_TEXTS]},
            "encoding_format": {"type": "string", "enum": ["float", "base64"]}, "dimensions": _COUNT,
        },
    ),
    "/v1/responses": (
        "A response, in OpenAI's form; stateless.",
        ["model", "input"],
        {**_COMMON, "input": {"anyOf": [_SOME_TEXT, {"type": "array", "items": _OBJECT}]}, "max_output_tokens": _COUNT},
    ),
    "/v1/messages": (
        "A message, in Anthropic's form.",
        ["model", "messages", "max_tokens"],
        {**_COMMON, "messages": _MESSAGES, "max_tokens": _COUNT, "system": {"anyOf": [_TEXT, _LIST]}},
    ),
}  # fmt: skip
READS = {
    "/v1/models": "The names that a request may use.",
    "/v1/models/{name}": "One of them.",
    "/healthz": "Whether the process is alive.",
    "/readyz": "Whether requests should come here.",
    "/metrics": "Prometheus exposition.",
}
OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
"""Without a key."""


def document() -> Schema:
    """OpenAPI 3.1."""
    _, schemas = msgspec.json.schema_components([Directives, Feedback], ref_template="#/components/schemas/{name}")
    paths = {path: {"post": _post(path, *request)} for path, request in REQUESTS.items()}
    feedback: Schema = {"$ref": "#/components/schemas/Feedback"}
    paths["/v1/feedback"] = {"post": _operation("A judgement on an earlier answer.", body=feedback)}
    for path, summary in READS.items():
        paths[path] = {"get": _operation(summary, is_open=path in OPEN, named="{name}" in path)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Locum", "version": "1", "description": "An inference router: one API before two models."},
        "paths": paths,
        "security": [{"bearer": []}],
        "components": {
            "schemas": {**schemas, "Error": _error(), "AnthropicError": _anthropic_error()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _post(path: str, summary: str, required: list[str], properties: Schema) -> Schema:
    schema = {"type": "object", "required": required, "properties": properties}
    return _operation(summary, body=schema, streams="stream" in properties, anthropic=path == "/v1/messages")


def _operation(
    summary: str,
    *,
    body: Schema | None = None,
    streams: bool = False,
    anthropic: bool = False,
    is_open: bool = False,
    named: bool = False,
) -> Schema:
    error: Schema = {"$ref": f"#/components/schemas/{'AnthropicError' if anthropic else 'Error'}"}
    answer: Schema = {"application/json": {"schema": _OBJECT}}
    if streams:
        answer["text/event-stream"] = {"schema": _TEXT}
    if is_open:
        answer["text/plain"] = {"schema": _TEXT}
    operation: Schema = {
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": answer},
            "default": {
                "description": "An error.",
                "content": {"application/json": {"schema": {} if is_open else error}},
            },
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if is_open:
        operation["security"] = []
    if named:
        operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": _SOME_TEXT}]
    return operation


def _error() -> Schema:
    members = {
        "message": _TEXT,
        "type": _TEXT,
        "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "null"]},
    }
    inner = {"type": "object", "required": list(members), "properties": members}
    return {"type": "object", "required": ["error"], "properties": {"error": inner}}


def _anthropic_error() -> Schema:
    inner = {"type": "object", "required": ["type", "message"], "properties": {"type": _TEXT, "message": _TEXT}}
    return {"type": "object", "required": ["type", "error"], "properties": {"type": {"const": "error"}, "error": inner}}


def rendered() -> str:
    return json.dumps(document(), indent=2, sort_keys=True) + "\n"


@click.command()
@click.option("--write", is_flag=True, help="Write docs/openapi.json instead of printing.")
def main(write: bool) -> None:
    """Print the OpenAPI document."""
    if write:
        FILE.write_text(rendered())
    else:
        click.echo(rendered(), nl=False)


if __name__ == "__main__":
    main()
