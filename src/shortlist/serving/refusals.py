"""Requests that cannot be answered as asked: the status and the code that HTTP carries for each."""

from shortlist.errors import CapacityError, RequestError

__all__ = ["NotFound", "BadJson", "TooLarge", "Forbidden", "Unauthorized", "NotReady", "Late", "Overloaded"]


class NotFound(RequestError):
    """404: what the request names does not exist."""

    code = "not_found"


class BadJson(RequestError):
    """400: the body or the path cannot be read at all."""

    code = "bad_json"


class TooLarge(RequestError):
    """413: the body is over its limit."""

    code = "too_large"


class Unauthorized(RequestError):
    """401: an API key is needed."""

    code = "unauthorized"


class Forbidden(RequestError):
    """403: without an API key only this machine's own pages may ask."""

    code = "forbidden"


class NotReady(RequestError):
    """503: no release is loaded yet."""

    code = "not_ready"


class Late(RequestError):
    """503: the work was not done by its deadline."""

    code = "deadline"


class Overloaded(CapacityError):
    """503: too many requests wait already."""

    code = "overloaded"
