"""The description (OpenAPI 3.1) of the prediction service of one model: what it takes, what it answers, and an example that it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NUMBER = {"type": "number"}
_VECTOR = {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3}
_MATRIX = {"type": ["array", "null"], "items": _VECTOR, "minItems": 3, "maxItems": 3}
_REFUSED = {
    "type": "object",
    "required": ["error_code", "message"],
    "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
}
_REFUSALS = {
    "400": "no JSON", "401": "no token, or another", "413": "too large", "415": "compressed", "421": "called by another name",
    "422": "no structure that this model computes, such as atoms closer than 0.1 Å; `message` says why",
    "500": "the process that computes ended twice at this structure", "503": "too many requests wait: come back after a second",
}  # fmt: skip


def description(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description as plain data.

    Args:
        about: what the worker says of its model: `elements`, `levels`, `outputs`, `atoms` (largest number), `default_level`.
    """
    structure, example = _structure(about), _example(about)
    predict = {
        "summary": "Predict energy, forces and other quantities of a structure",
        "requestBody": {"required": True, "content": {"application/json": {"schema": structure, "example": example}}},
        "responses": _answers(
            "energy in eV, forces in eV/Å; `warnings` where a charge or multiplicity is assumed or extrapolated", _PREDICTED
        ),
    }
    model = {"summary": "Describe the model", "responses": _answers("digest, elements, levels, outputs, engine", {"type": "object"})}
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlipfm prediction service", "version": "1"},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
        "paths": {"/v1/predict": {"post": predict}, "/v1/model": {"get": model}},
    }


_PREDICTED = {
    "type": "object",
    "properties": {
        "energy": _NUMBER | {"description": "eV"},
        "forces": {"type": "array", "items": _VECTOR, "description": "eV/Å"},
        "stress": {"type": "array", "items": _VECTOR, "minItems": 3, "maxItems": 3, "description": "eV/Å³, negative under compression"},
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
}


def _structure(about: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of the body. Every atom has a position: JSON Schema cannot say that two lists are of one length."""
    atoms = {"minItems": 1, "maxItems": about["atoms"]}
    return {
        "type": "object",
        "required": ["numbers", "positions"],
        "additionalProperties": False,
        "properties": {
            "numbers": {"type": "array", "items": {"enum": list(about["elements"])}, "description": "atomic numbers", **atoms},
            "positions": {"type": "array", "items": _VECTOR, "description": "Å, of every atom", **atoms},
            "cell": _MATRIX | {"description": "lattice vectors as rows, Å"},
            "pbc": {"type": ["array", "null"], "items": {"type": "boolean"}, "minItems": 3, "maxItems": 3},
            "charge": {"type": ["integer", "null"], "minimum": -100, "maximum": 100, "description": "e"},
            "multiplicity": {"type": ["integer", "null"], "minimum": 1, "maximum": 100, "description": "2S+1"},
            "level": {"type": ["string", "null"], "description": f"level of theory: {', '.join(about['levels']) or 'this model has none'}"},
            "outputs": {
                "type": "array",
                "items": {"enum": list(about["outputs"])},
                "minItems": 1,
                "default": ["energy", "forces"],
            },
        },
    }


def _example(about: Mapping[str, Any]) -> dict[str, Any]:
    """Two atoms 3 Å apart."""
    element = about["elements"][0]
    level = about.get("default_level") or next(iter(about["levels"]), None)
    return {"numbers": [element, element], "positions": [[0, 0, 0], [0, 0, 3]]} | ({"level": level} if level else {})


def _answers(told: str, schema: dict[str, Any]) -> dict[str, Any]:
    good = {"description": told, "content": {"application/json": {"schema": schema}}}
    refused = {status: {"description": why, "content": {"application/json": {"schema": _REFUSED}}} for status, why in _REFUSALS.items()}
    return {"200": good, **refused}
