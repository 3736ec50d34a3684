"""Requests that cannot be answered as asked: the status and the code that HTTP carries for each."""

from shortlist.errors import CapacityError, RequestError

__all__ = [
    "NotFoundError",
    "BadJsonError",
    "TooLargeError",
    "ForbiddenError",
    "UnauthorizedError",
    "NotReadyError",
    "LateError",
    "OverloadedError",
]


class NotFoundError(RequestError):
    """404: what the request names does not exist."""

    code = "not_found"


class BadJsonError(RequestError):
    """400: the body or the path cannot be read at all."""

    code = "bad_json"


class TooLargeError(RequestError):
    """413: the body is over its limit."""

    code = "too_large"


class UnauthorizedError(RequestError):
    """401: an API key is needed."""

    code = "unauthorized"


class ForbiddenError(RequestError):
    """403: without an API key only this machine's own pages may ask."""

    code = "forbidden"


class NotReadyError(RequestError):
    """503: no release is loaded yet."""

    code = "not_ready"


class LateError(RequestError):
    """503: the work was not done by its deadline."""

    code = "deadline"


class OverloadedError(CapacityError):
    """503: too many requests wait already."""

    code = "overloaded"
