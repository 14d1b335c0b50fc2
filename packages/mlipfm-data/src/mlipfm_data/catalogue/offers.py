"""Which files of a set of the catalogue are downloaded."""

from __future__ import annotations

import fnmatch

from ..download.connecting import DownloadError
from ..download.downloading import Wanted
from ..download.fetching import Known
from .schema import DataFile, DataSet


def chosen(entry: DataSet, patterns: list[str], all_files: bool) -> list[Wanted]:
    """The files whose names fit one of the patterns; without patterns the only file, or all of them if asked for.

    Raises:
        DownloadError: the set is not released or has no address of a file (with its pages), several files and none is chosen, or none that fits.
    """
    if not entry.files:
        pages = ", ".join(str(fact.value) for fact in entry.pages)
        what = "was not released" if entry.status != "released" else "has no address of a file in the catalogue"
        raise DownloadError(what, where=entry.name, mend=f"see {pages}" if pages else "see `mlipfm data catalogue` for others")
    names = [file.name for file in entry.files]
    fitting = [file for file in entry.files if all_files or any(fnmatch.fnmatchcase(file.name, pattern) for pattern in patterns)]
    if patterns and not fitting:
        raise DownloadError(f"no file fits {' or '.join(patterns)}", where=entry.name, mend=f"there are {', '.join(names)}")
    if not fitting and len(names) > 1:
        listed = ", ".join(f"{file.name} ({file.note})" if file.note else file.name for file in entry.files)
        raise DownloadError(f"has {len(names)} files: {listed}", where=entry.name, mend="choose some with --file PATTERN, or --all")
    return [_wanted(entry, file) for file in fitting or entry.files]


def _wanted(entry: DataSet, file: DataFile) -> Wanted:
    origin = {
        "set": entry.id,
        "licence": " or ".join(dict.fromkeys(str(fact.value) for fact in entry.licences)) or None,
        "citation": entry.citations[0].value if entry.citations else None,
    }
    return Wanted(file.url, file.name, Known(file.size, file.sha256, file.md5), origin)
