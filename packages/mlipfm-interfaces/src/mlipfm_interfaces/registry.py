"""Models by name from a registry (an MLflow server) over plain HTTP; mlflow itself is not needed.

`pull("NAME@ALIAS")` returns a local, verified file. What a registry says is checked before the model is parsed: the files of the version are exactly
those that were registered, length and SHA-256 are those of its tags, and then the digest in the checkpoint is the one that was registered. A name
keeps its meaning: a version that changes its content, an alias that was moved without `promote`, and an alias that goes back to an older version
without a logged rollback are refused. What was seen of a registry is remembered in the cache folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import DamagedFileError, MlipfmError, RegistryError
from .files import atomic_write, canonical_json, fsync_folder, lock, read_bytes, sha256, unwritable
from .registry_http import Json, Server, UnreachableError, registry_cache, remember_hub, server
from .registry_mirrors import Mirror, mirrors
from .registry_versions import (
    MODEL_FILE,
    Address,
    Promotion,
    Version,
    check_signature,
    first_of_digest,
    get_version,
    list_versions,
    parse_address,
    promotion_of,
)

__all__ = ["MlipfmResolver", "fetch", "pull", "registry_cache", "remember_hub"]

_log = logging.getLogger("mlipfm.registry")


class MlipfmResolver:
    """The scheme `mlipfm:` of model addresses (protocol `Resolver`)."""

    scheme = "mlipfm"

    def resolve(self, address: str) -> Path:
        """Path of the verified checkpoint; see `pull`."""
        return pull(address)


def pull(address: str, registry: str | None = None, public_key: Path | None = None) -> Path:
    """Return the checkpoint at `NAME@ALIAS` or `NAME/VERSION` as a verified file in the cache folder, downloaded if it is not there yet.

    Where the registry does not answer, the cached file is returned that the address meant when the registry was asked last, with a warning. A
    download that breaks off goes on from a mirror, see `registry_mirrors`.

    Args:
        registry: address of the server, or folder of a hub; default $MLIPFM_REGISTRY, else this machine.
        public_key: by which the file must be signed (see `model_signatures`); default $MLIPFM_PUBLIC_KEY, else no signature is required.

    Raises:
        SignatureError: not signed by the key. RegistryError: not reachable and not in the cache, not there, or no valid certificate.
        DamagedFileError: content other than registered. RefusedFileError: not a model checkpoint.
    """
    from .model_signatures import PUBLIC_KEY

    wanted, where = parse_address(address), server(registry)
    key = public_key or (Path(os.environ[PUBLIC_KEY]) if os.environ.get(PUBLIC_KEY) else None)
    try:
        return _pull(wanted, where, key)
    except UnreachableError as error:
        path = _cached(wanted, where) if key is None else None  # signatures are at the registry
        if path is None:
            raise
        _log.warning("%s: %s; using %s, which it was when the registry was asked last", error.where, error.what, path.name)
        return path


def _pull(wanted: Address, where: Server, key: Path | None) -> Path:
    promotion = None if wanted.alias is None else promotion_of(where, wanted.name, wanted.alias)
    if wanted.alias is not None and promotion is None:
        raise where.fault(f"has no {wanted}", "see `mlipfm models list`")
    version = get_version(where, wanted.name, promotion.version if promotion else wanted.version or 0)
    if promotion is not None:
        _check_content_is_new(where, version)
    memory = _recall(where, wanted.name)
    _check_against_memory(where, version, wanted.alias, promotion, memory)
    if wanted.alias is not None and promotion is not None:
        check_signature(where, wanted.name, wanted.alias, promotion)
    path = fetch(where, version)
    if key is not None:
        from .model_signatures import verify_model
        from .registry_hub import signatures_of

        verify_model(path, signatures_of(where, version.name, version.number), key)
    _remember(where, version, wanted.alias, promotion)
    return path


def fetch(where: Server, version: Version) -> Path:
    """The model file of a version from the cache, or downloaded and verified; RegistryError, DamagedFileError or RefusedFileError otherwise."""
    folder = registry_cache()
    target, part = folder / f"{version.digest}.safetensors", folder / f"{version.digest}.part"
    registered = version.files[MODEL_FILE]
    with lock(folder / f"{version.digest}.lock", timeout=600):
        if target.is_file() and target.stat().st_size == registered.size and sha256(target) == registered.sha256:
            return target
        others = mirrors()
        try:
            _check_listing(where, version)
        except UnreachableError:
            if not others:
                raise
        try:
            _download(where, version, part, others)
            _check_checkpoint(version, part, f"{version} of {where.address}")
            os.replace(part, target)
            fsync_folder(folder)
        except OSError as error:
            raise unwritable(target, error) from error
        finally:
            part.unlink(missing_ok=True)
    return target


def _check_listing(where: Server, version: Version) -> None:
    listed = where.listing(f"{version.root}/model")
    for name in sorted(listed.keys() ^ version.files.keys()):
        raise where.fault(f"{'has the extra' if name in listed else 'lacks the'} file {name!r} in {version}: it is not what was registered")
    for name, size in listed.items():
        if size != version.files[name].size:
            raise where.fault(f"has {size} bytes of {name} in {version}, {version.files[name].size} were registered")


def _download(where: Server, version: Version, part: Path, others: list[Mirror]) -> None:
    """Write the registered bytes to `part`: from the registry, and where it breaks off from the mirrors, each of which goes on at that byte."""
    registered = version.files[MODEL_FILE]
    sources: list[tuple[str, Callable[[int], Iterator[bytes]]]] = [
        (where.address, lambda _: where.download(f"{version.root}/model/{MODEL_FILE}", registered.size)),
        *((str(mirror), functools.partial(mirror.read, registered.sha256, registered.size)) for mirror in others),
    ]
    from .console import counter

    with open(part, "wb") as file, counter(str(version), registered.size, in_bytes=True, show=registered.size >= 2**23) as advance:
        for k, (name, read) in enumerate(sources):
            try:
                for chunk in read(file.tell()):
                    file.write(chunk)
                    advance(len(chunk))
            except RegistryError as error:
                if k + 1 == len(sources):
                    raise
                _log.warning("%s: %s; going on at byte %d from %s", name, error.what, file.tell(), sources[k + 1][0])
                continue
            file.flush()
            os.fsync(file.fileno())
            found = sha256(part)
            if found == registered.sha256:
                return
            if k == 0 or k + 1 == len(sources):
                raise _swapped(version, found, ", ".join(source for source, _ in sources[: k + 1]))
            _log.warning("%s: other bytes than were registered; beginning anew from %s", name, sources[k + 1][0])
            advance(-file.tell())
            file.seek(0)
            file.truncate()


def _swapped(version: Version, found: str, where: str) -> DamagedFileError:
    what = f"SHA-256 is {found}, {version.files[MODEL_FILE].sha256} was registered: the file was swapped or damaged"
    return DamagedFileError(what, where=f"{version} of {where}", hint="tell who runs the registry; push the model anew under another name")


def _cached(wanted: Address, where: Server) -> Path | None:
    """The verified file in the cache that an address meant when the registry was asked last; None if there is none."""
    from .checkpoint_file import verify_checkpoint

    memory = _recall(where, wanted.name)
    number = wanted.version if wanted.alias is None else memory["aliases"].get(wanted.alias, (None, None))[0]
    digest = memory["versions"].get(str(number))
    path = registry_cache() / f"{digest}.safetensors"
    return path if digest and path.is_file() and verify_checkpoint(path).get("digest") == digest else None


def _check_checkpoint(version: Version, part: Path, where: str) -> None:
    """The bytes are those that were registered; now they are parsed, and must be the model that was registered."""
    from .checkpoint_file import verify_checkpoint

    try:
        digest = verify_checkpoint(part).get("digest")
    except MlipfmError as error:
        error.where = where
        raise
    if digest != version.digest:
        raise DamagedFileError(f"holds the model {digest}, {version.digest} was registered", where=where)


def _check_content_is_new(where: Server, version: Version) -> None:
    """What an alias stands for is no old version under a new number."""
    original = first_of_digest(list_versions(where, version.name), version.digest)
    if original is not None and original.number < version.number:
        again = f"has version {original.number} of {version.name} again as version {version.number}: a rollback that was not logged"
        raise where.fault(again, f"ask for mlipfm:{version.name}/N, or promote the version that is wanted")


def _check_against_memory(where: Server, version: Version, alias: str | None, promotion: Promotion | None, memory: Json) -> None:
    """A version keeps its content; an alias goes on from what was seen, and back only by a rollback that was logged since."""
    anew = f"if the registry was made anew, delete {_memory_path(where, version.name)}"
    known = memory["versions"].get(str(version.number))
    if known not in (None, version.digest):
        raise where.fault(f"has other content under {version} than before: {version.digest} now, {known} then", anew)
    if alias is None or promotion is None or alias not in memory["aliases"]:
        return
    seen, sequence = memory["aliases"][alias]
    if promotion.sequence < sequence or (promotion.sequence == sequence and version.number != seen):
        was = f"says {alias!r} is version {version.number} (promotion {promotion.sequence}); it was version {seen} (promotion {sequence})"
        raise where.fault(f"{was}: a rollback that was not logged", anew)
    if version.number < seen:
        logged = [entry for entry in promotion.rollbacks if entry["sequence"] > sequence]
        if not logged:
            raise where.fault(f"moved {alias!r} from version {seen} back to {version.number} without a logged rollback", anew)
        reasons = "; ".join(str(entry["reason"]) for entry in logged)
        _log.warning("%s@%s was rolled back from version %s to %s: %s", version.name, alias, seen, version.number, reasons)


def _memory_path(where: Server, name: str) -> Path:
    key = hashlib.sha256(f"{where.address}\n{name}".encode()).hexdigest()[:32]
    return registry_cache() / f"known-{key}.json"


def _recall(where: Server, name: str) -> Json:
    path = _memory_path(where, name)
    if not path.exists():
        return {"registry": where.address, "name": name, "versions": {}, "aliases": {}}
    try:
        memory = json.loads(read_bytes(path))
        pairs = [(int(number), int(sequence)) for number, sequence in memory["aliases"].values()]
        if isinstance(memory["versions"], dict) and all(number > 0 for pair in pairs for number in pair):
            return dict(memory)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # reported below, as a memory of another shape is
    raise DamagedFileError("what is remembered of the registry is damaged", where=str(path), hint="delete it")


def _remember(where: Server, version: Version, alias: str | None, promotion: Promotion | None) -> None:
    path = _memory_path(where, version.name)
    with lock(path.with_suffix(".lock"), timeout=30):
        memory = _recall(where, version.name)
        before = canonical_json(memory)
        memory["versions"][str(version.number)] = version.digest
        if alias and promotion and memory["aliases"].get(alias, (0, 0))[1] <= promotion.sequence:
            memory["aliases"][alias] = [version.number, promotion.sequence]
        if canonical_json(memory) != before:
            atomic_write(path, canonical_json(memory))
