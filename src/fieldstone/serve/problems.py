"""What goes wrong, in the one shape that OpenAI's API gave it: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import logging
import sqlite3

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from fieldstone.errors import (
    EndpointError,
    FieldstoneError,
    ModelError,
    ReadError,
    RequestError,
    SettingsError,
)

log = logging.getLogger(__name__)

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ProblemDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="For people: what happened, and what to do.")
    type: str = Field(description="The kind of problem, as OpenAI's API names them.")
    param: str | None = Field(description="The field of the request that is to blame.")
    code: str | None = Field(description="A word for programs.")


class Problem(BaseModel):
    """The shape of every error."""

    error: ProblemDetail

    model_config = {
        "json_schema_extra": {
            "example": {
                "error": {
                    "message": "64 requests are waiting already; ask again in 21 s",
                    "type": "rate_limit_error",
                    "param": None,
                    "code": "busy",
                }
            }
        }
    }


def as_request_error(error: Exception) -> RequestError:
    """Any error as a request's: what the asker can mend is told, all else is logged."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, HTTPException):
        return RequestError(str(error.detail), status=error.status_code, code=_code(error.status_code))
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, (SettingsError, ReadError)):
        return RequestError(str(error))
    if isinstance(error, TimeoutError):
        return RequestError(
            "it took longer than a request may; ask again, or raise serve.seconds", status=504, code="timeout"
        )
    if isinstance(error, ModelError) and not isinstance(error, EndpointError):
        return RequestError(f"the model cannot take this: {error}", code="refused_by_model")
    log.error("%s: %s", type(error).__name__, error, exc_info=not isinstance(error, FieldstoneError))
    if isinstance(error, EndpointError):
        return RequestError(
            "the model server fails; the log says how", status=502, code="model_server", seconds=5
        )
    if isinstance(error, (FieldstoneError, sqlite3.DatabaseError)):
        return RequestError(
            "the workspace cannot be used at the moment; the log says why",
            status=503,
            code="workspace",
            seconds=5,
        )
    return RequestError("something broke inside; the log says what", status=500, code="internal")


def as_json(error: RequestError) -> dict[str, object]:
    """The body that tells of it."""
    kind = TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def respond(error: Exception) -> JSONResponse:
    """The response to a request that failed so."""
    told = as_request_error(error)
    headers = dict(getattr(error, "headers", None) or {})
    if told.seconds is not None:
        headers["Retry-After"] = f"{told.seconds:.0f}"
    if told.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(as_json(told), told.status, headers)


def install(app: FastAPI) -> None:
    """Give the errors of an app's routes this shape; what is no error of a request, `Guard` answers."""

    async def handle(_: Request, error: Exception) -> JSONResponse:
        return respond(error)

    kinds = (FieldstoneError, HTTPException, RequestValidationError, TimeoutError, sqlite3.DatabaseError)
    for kind in kinds:
        app.add_exception_handler(kind, handle)


def _invalid(error: RequestValidationError) -> RequestError:
    """The first thing wrong with a request; what was sent is not repeated."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    if first["type"] == "json_invalid":
        return RequestError("the body is not valid JSON", code="invalid_json")
    message = str(first["msg"]).removeprefix("Value error, ")
    if not place:
        return RequestError(f"the request does not fit: {message}; send JSON as application/json")
    return RequestError(f"{'.'.join(place)}: {message}", param=place[0])


def _code(status: int) -> str:
    return {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(status, "invalid_request")
