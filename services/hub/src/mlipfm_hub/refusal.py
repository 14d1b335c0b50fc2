"""What a request gets that is not answered: an HTTP status, a code and one line, and never a path or a stack of the server."""

from __future__ import annotations

#: Pattern of a text of one line: no control characters, no separators of lines, no marks that change the direction of writing.
LINE = r"^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$"


class Refused(Exception):
    """HTTP status, code and one line for the user."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, " ".join(message.split())[:400]


def bad(message: str) -> Refused:
    return Refused(400, "INVALID_PARAMETER_VALUE", message)


def absent(message: str) -> Refused:
    return Refused(404, "RESOURCE_DOES_NOT_EXIST", message)


def forbidden(message: str) -> Refused:
    return Refused(403, "PERMISSION_DENIED", message)


def conflict(message: str) -> Refused:
    return Refused(409, "RESOURCE_CONFLICT", message)


def too_large(message: str) -> Refused:
    return Refused(413, "TOO_LARGE", message)
