"""The hub's signature under a promotion: HMAC-SHA256 (RFC 2104) with a key that stays in the folder. Whether one is real, the hub says."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from mlipfm_interfaces.files import canonical_json


class Signer:
    """Signs name, alias, the promotion with the hashes of its records, and the model's digest; the records name data and code by their hashes."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def sign(self, name: str, alias: str, promotion: dict[str, Any], digest: str) -> str:
        statement = {"name": name, "alias": alias, "promotion": promotion, "model": digest}
        return hmac.new(self._key, canonical_json(statement), hashlib.sha256).hexdigest()

    def is_ours(self, signature: str, name: str, alias: str, promotion: dict[str, Any], digest: str) -> bool:
        return hmac.compare_digest(signature.encode(), self.sign(name, alias, promotion, digest).encode())
