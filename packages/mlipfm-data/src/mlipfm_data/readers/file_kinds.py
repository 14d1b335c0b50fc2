"""Files that are never read: pickles, by whatever name they come."""

from __future__ import annotations

import re
from pathlib import Path

from mlipfm_interfaces.errors import RefusedFileError

_SUFFIXES = (".pkl", ".pickle", ".pckl", ".pckl.gzip", ".pkl.gz", ".pt", ".pth", ".ckpt", ".joblib", ".dill")
#: Binary pickles begin with PROTO and a FRAME, a mark, an opcode of an empty container, or a global; text pickles with a mark or a global.
_BINARY = re.compile(rb"\x80[\x02-\x05][\x95(}\]\)cXKJMGN\x8a\x8c]", re.DOTALL)
_TEXT = re.compile(rb"(\(?[cild]\w*(copy_reg|copyreg|builtins|__builtin__|posix|os|nt|numpy|torch)[\w.]*\n)|\((lp|dp|i)\d*\n")


def refuse_pickle(path: Path) -> None:
    """Refuse a file that is a pickle by name or by its first bytes (torch archives are zip files with a `data.pkl`).

    Raises:
        RefusedFileError: always for pickles, however harmless they may be.
    """
    by_name = path.name.lower().endswith(_SUFFIXES)
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
    except OSError:
        head = b""
    zipped = head.startswith(b"PK\x03\x04") and b"data.pkl" in head
    if by_name or zipped or _BINARY.match(head) or _TEXT.match(head):
        raise RefusedFileError(
            "this is a pickle, and pickles are never read: they can run code",
            where=str(path),
            mend="export it as extxyz with the program that wrote it",
        )
