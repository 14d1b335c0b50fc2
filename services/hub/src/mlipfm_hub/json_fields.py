"""What a request may hold: types as JSON has them. `true` is no number and "10" is none; 10.0 is a whole number."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["LINE", "Strict"]

#: Pattern of a text of one line: no control characters, no separators of lines, no marks that change the direction of writing.
LINE = r"^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$"


class Strict(BaseModel):
    """Base of the bodies of requests."""

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, given: Any) -> Any:
        """Take 10.0 for 10, as JSON does: a number with a fraction of zero is an integer."""
        if not isinstance(given, dict):
            return given
        return {key: int(value) if type(value) is float and value.is_integer() else value for key, value in given.items()}
