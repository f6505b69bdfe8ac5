"""Errors of the API, as OpenAI's clients expect them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from gpt1.errors import GPT1Error, ResourceError, UserError, name_settings
from gpt1.generation.sampling import DamagedModelError
from gpt1.serving.engine import QueueFull

ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
RETRY_SECONDS = 1


class Answer(JSONResponse):
    """JSON, in which a lone surrogate of a request is a question mark: UTF-8 cannot hold it."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )


class ApiError(HTTPException):
    """An error with its status and its place in the request.

    Args:
        status: HTTP status.
        message: The problem and how to fix it.
        code: A word for programs.
        param: The field of the request that is wrong.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code, self.param = code, param

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = ERROR_TYPES.get(self.status_code, "invalid_request_error" if self.status_code < 500 else "server_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Answer:
        return Answer(self.body(), self.status_code, self.headers)


def api_error(error: BaseException) -> ApiError:
    """Convert any error to an ApiError, without paths and tracebacks."""
    if isinstance(error, BaseExceptionGroup):  # of the tasks of a request
        return api_error(error.exceptions[0])
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, QueueFull):
        return ApiError(429, f"{error.problem} {error.fix}", "queue_full", headers={"Retry-After": str(RETRY_SECONDS)})
    if isinstance(error, DamagedModelError):
        return ApiError(503, error.problem, "model_unavailable", "model")
    if isinstance(error, UserError):
        return ApiError(400, format_message(error))
    if isinstance(error, ResourceError):
        return ApiError(503, format_message(error), "overloaded", headers={"Retry-After": str(RETRY_SECONDS)})
    if isinstance(error, TimeoutError):
        return ApiError(504, "the request exceeded the time limit.", "timeout")
    if isinstance(error, GPT1Error):
        return ApiError(503, error.problem, "unavailable")
    return ApiError(500, "the server failed; its log says why.", "internal_error")


def format_message(error: GPT1Error) -> str:
    """The problem and the fix, in the words of a request: names of fields instead of flags."""
    return name_settings(f"{error.problem} {error.fix}".strip(), "{}")
