"""Signatures of model files by a key pair, as OpenSSF model signing makes them: a Sigstore bundle over the SHA-256 of the file, without a network.

The tool is the package `model-signing`, in an environment of its own that is made on first use: it brings 25 packages that a client does not need
otherwise. Whoever signs keeps the private key; who pulls has the public key from them and not from the registry, so that a registry
which was taken over cannot make another model look signed.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .errors import MlipfmError, UnreadableFileError
from .files import sha256

__all__ = ["PUBLIC_KEY", "SignatureError", "sign_model", "signed_hash", "verify_model"]

#: Environment variable with the path of a public key: every model that is pulled must be signed by it.
PUBLIC_KEY = "MLIPFM_PUBLIC_KEY"
REQUIREMENTS = ("model-signing>=1.1,<2", "pyopenssl>=24")  # model-signing 1.1 imports pyopenssl without declaring it
_PATIENCE = 300.0


class SignatureError(MlipfmError):
    """A model is not signed by the key, or cannot be signed with it."""

    code = "signature"


def sign_model(model: Path, private_key: Path) -> dict[str, Any]:
    """Return the signature of a file by an elliptic-curve key (PEM, P-256, P-384 or P-521, without a password).

    Raises:
        SignatureError: no such key. ForeignModelError: the tool cannot be installed.
    """
    _readable(private_key)
    with TemporaryDirectory() as folder:
        target = Path(folder) / "model.sig"
        told = _run("sign", "key", model, "--private_key", private_key, "--signature", target)
        if told or not target.exists():
            raise SignatureError(f"the model cannot be signed: {told}", where=str(private_key), hint=_KEY_HINT)
        return dict(json.loads(target.read_bytes()))


def verify_model(model: Path, signatures: Sequence[Any], public_key: Path) -> None:
    """Check that one of the signatures of a file is by this key.

    Raises:
        SignatureError: none is. ForeignModelError: the tool cannot be installed.
    """
    _readable(public_key)
    file = sha256(model)
    own = [signature for signature in signatures if signed_hash(signature) == file]
    said = "it has no signature" if not signatures else "its signatures are of other files"
    for signature in own[-20:]:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.sig"
            path.write_text(json.dumps(signature), encoding="utf-8")
            said = _run("verify", "key", model, "--signature", path, "--public_key", public_key)
        if not said:
            return
    raise SignatureError(f"the model is not signed by this key: {said}", where=str(public_key), hint="ask who made it for the key")


def signed_hash(signature: Any) -> str | None:
    """Return the SHA-256 of the one file that a signature is of; None if it is no signature of one file. The signature itself is not verified."""
    try:
        statement = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"], validate=True))
        (resource,) = statement["predicate"]["resources"]
        return str(resource["digest"]) if resource["algorithm"] == "sha256" else None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


_KEY_HINT = "make one with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem` and `openssl ec -in key.pem -pubout -out key.pub`"


def _readable(key: Path) -> None:
    try:
        text = key.read_bytes()[:100_000]
    except OSError as error:
        raise UnreadableFileError(f"the key cannot be read: {error.strerror}", where=str(key), hint=_KEY_HINT) from None
    if b"-----BEGIN " not in text:
        raise SignatureError("is no key in PEM format", where=str(key), hint=_KEY_HINT)


def _run(*words: object) -> str:
    """Run the tool; the last line of what it says if it fails, "" if it succeeds."""
    from .foreign_environment import environment

    python = environment("model-signing", REQUIREMENTS)
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OTEL_"))}
    line = [str(python), "-m", "model_signing", *map(str, words)]
    try:
        done = subprocess.run(line, env=plain, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {_PATIENCE:.0f} s"
    said = [text.strip() for text in (done.stdout + done.stderr).splitlines() if text.strip()]
    return "" if done.returncode == 0 else (said[-1][:300] if said else "no reason given")
