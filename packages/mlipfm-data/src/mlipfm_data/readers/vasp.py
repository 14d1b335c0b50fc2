"""Reader of VASP's `vasprun.xml`, plain, compressed or inside archives (zip, tar), one ionic step at a time.

Energy is that extrapolated to zero smearing (`e_0_energy`, as ASE and pymatgen take it), the free energy beside it. Stress is kbar, positive under
compression. In an archive, magnetic moments come from the OUTCAR beside each vasprun.xml, which alone holds them.
"""

from __future__ import annotations

import lzma
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from io import TextIOWrapper
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from xml.etree import ElementTree

import numpy as np
from mlipfm_interfaces.elements import number
from mlipfm_interfaces.errors import RefusedFileError, UnreadableFileError
from mlipfm_interfaces.raw_frame import EV_ANGSTROM, At, Conventions, RawFrame
from mlipfm_interfaces.units import factor

from . import convergence
from .compressed import opened

_MEMBER = re.compile(r"vasprun[^/]*\.xml[^/]*$")
#: Attribute by which a step counts its electronic steps, of which only the last two are kept.
_STEPS = "electronic-steps"
_UNKNOWN = "warning: whether the electrons converged is not known: the file gives no NELM or no EDIFF"
_CHUNK = 1 << 13  # all that one piece holds is parsed at once
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")


class VaspXmlReader:
    """The ionic steps of vasprun.xml files. Group: the file, or the member of the archive."""

    suffixes = (".xml", ".xml.gz", ".xml.xz", ".xml.bz2", *_ARCHIVES)
    conventions = Conventions("vasprun.xml", EV_ANGSTROM | {"stress_unit": "kbar", "stress_sign": -1})

    def frames(self, path: Path) -> Iterator[At]:
        """Yield the steps. Raises `UnreadableFileError`: cut off, or no vasprun.xml. `RefusedFileError`: it declares entities."""
        for name, open_member, moments in _members(path):
            with closing(open_member()) as stream:
                place = "" if name == path.name else f"{name}, step "
                for k, arguments in enumerate(_steps(stream, str(path) if name == path.name else f"{path}: {name}")):
                    yield At(place and f"{place}{k}", _frame, *arguments, name, moments[k] if k < len(moments) else None)


def _members(path: Path) -> Iterator[tuple[str, Callable[[], BinaryIO], list[np.ndarray]]]:
    """(name, how to open it, magnetic moments by step) of each vasprun.xml of a file or archive. Nothing is unpacked to the disk."""
    if not path.name.endswith(_ARCHIVES):
        yield path.name, lambda: opened(path), []
        return
    with ExitStack() as stack:
        names, reader = _archive(path, stack)
        found = sorted(name for name in names if _MEMBER.search(name) and not PurePosixPath(name).name.startswith("._"))
        if not found:
            raise UnreadableFileError("the archive holds no vasprun.xml", where=str(path))
        for name in found:
            beside = str(PurePosixPath(name).with_name("OUTCAR"))
            moments: list[np.ndarray] = []
            if beside in names:
                with closing(reader(beside)) as stream:
                    moments = _moments(stream)
            yield name, lambda name=name: reader(name), moments  # type: ignore[misc]  # bound to this turn of the loop


def _archive(path: Path, stack: ExitStack) -> tuple[set[str], Callable[[str], BinaryIO]]:
    try:
        if path.name.endswith(".zip"):
            packed = stack.enter_context(zipfile.ZipFile(path))
            return {item.filename for item in packed.infolist() if not item.is_dir()}, lambda name: cast(BinaryIO, packed.open(name))
        archive = stack.enter_context(tarfile.open(path))  # noqa: SIM115  # the stack closes it
        members = {item.name: item for item in archive.getmembers() if item.isfile()}
        return set(members), lambda name: cast(BinaryIO, archive.extractfile(members[name]))
    except (EOFError, OSError, ValueError, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UnreadableFileError(f"the archive cannot be read: {error}", where=str(path), hint="is it complete?") from None


def _steps(stream: BinaryIO, where: str) -> Iterator[tuple[ElementTree.Element, np.ndarray, dict[str, np.ndarray], dict[str, str]]]:
    """Yield (step, atomic numbers, selective dynamics, settings) of each ionic step."""
    numbers: np.ndarray | None = None
    settings: dict[str, str] = {}
    moving: dict[str, np.ndarray] = {}
    for element in _elements(stream, where):
        if element.tag == "atominfo":
            numbers = _numbers(element)
        elif element.tag in ("incar", "parameters"):  # the second holds the values in force
            settings |= convergence.settings_of(element)
        elif element.tag == "structure":
            rows = [str(row.text).split() for row in element.findall("varray[@name='selective']/v")]
            moving = {"selective_dynamics": np.array(rows)} if rows else {}
        elif numbers is None:
            raise UnreadableFileError("no atoms are named before the first step", where=where)
        else:
            yield element, numbers, moving, settings
        element.clear()


def _elements(stream: BinaryIO, where: str) -> Iterator[ElementTree.Element]:
    """Yield the elements that are wanted, complete, one after the other; everything else is dropped as it passes."""
    head = stream.read(_CHUNK)
    if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
        raise RefusedFileError("it declares entities of its own", where=where, hint="a vasprun.xml needs none")
    if b"<modeling" not in head:
        raise UnreadableFileError("this is no vasprun.xml", where=where)
    parser: ElementTree.XMLPullParser[Any] = ElementTree.XMLPullParser(["start", "end"])
    open_tags: list[ElementTree.Element] = []
    chunk = head
    try:
        while chunk:
            parser.feed(chunk)
            for event, element in cast("Iterator[tuple[str, ElementTree.Element]]", parser.read_events()):
                if event == "start":
                    open_tags.append(element)
                    continue
                open_tags.pop()
                if element.tag in ("atominfo", "calculation", "incar", "parameters") or (
                    element.tag == "structure" and len(open_tags) == 1 and element.get("name") == "initialpos"
                ):
                    yield element
                if element.tag == "scstep":
                    open_tags[-1].set(_STEPS, str(int(open_tags[-1].get(_STEPS, "0")) + 1))
                    for earlier in open_tags[-1].findall("scstep")[:-2]:
                        open_tags[-1].remove(earlier)
                elif len(open_tags) == 1 or element.tag in ("eigenvalues", "dos"):
                    open_tags[-1].remove(element)
            chunk = stream.read(_CHUNK)
        parser.close()
    except (ElementTree.ParseError, EOFError, OSError, ValueError, lzma.LZMAError) as error:
        raise UnreadableFileError(f"the XML breaks off or is damaged: {error}", where=where, hint="did the calculation finish?") from None


def _numbers(info: ElementTree.Element) -> np.ndarray:
    rows = info.findall("array[@name='atoms']/set/rc")
    names = [str(row.findtext("c")).strip() for row in rows]
    return np.array([number({"r": "Zr", "X": "Xe"}.get(name, name)) for name in names], dtype=np.int64)


def _frame(
    step: ElementTree.Element,
    numbers: np.ndarray,
    moving: dict[str, np.ndarray],
    settings: Mapping[str, str],
    name: str,
    moments: np.ndarray | None,
) -> RawFrame:
    cell = _rows(step.find("structure/crystal/varray[@name='basis']"))
    positions = _rows(step.find("structure/varray[@name='positions']")) @ cell
    found = {"forces": "varray[@name='forces']", "stress": "varray[@name='stress']"}
    results: dict[str, Any] = {key: _rows(element) for key, path in found.items() if (element := step.find(path)) is not None}
    pressure = float(settings.get("PSTRESS", 0.0))
    results |= _energies(step, factor("kbar", "stress") * pressure * abs(float(np.linalg.det(cell))))
    names = {str(child.get("name", child.tag)) for child in step} - {"structure", "energy", "scstep", "time", "forces", "stress"}
    if moments is not None and len(moments) == len(numbers):
        results["magmoms"] = moments
    words, remarks = _convergence(step, settings)
    if pressure:
        remarks += (f"the energies of the file are enthalpies at PSTRESS = {pressure:g} kbar: pressure times volume was taken off",)
    return RawFrame(numbers, positions.reshape(-1, 3), cell, np.ones(3, dtype=bool), arrays=moving, results=results, group=name,
                    unread=tuple(sorted(names)), unconverged=words, remarks=remarks)  # fmt: skip


def _energies(step: ElementTree.Element, work: float) -> dict[str, float]:
    """Energy without smearing and free energy. VASP writes another number as `e_0_energy` of the whole step: the difference of the two is taken
    from the last electronic step, where it is right. The free energy of the whole step holds the `work` against PSTRESS in eV, as no other does."""

    def of(place: str, name: str) -> float | None:
        found = step.findall(f"{place}/i[@name='{name}']")
        return float(str(found[-1].text)) if found else None

    free = of("energy", "e_fr_energy")
    zero, last = of("scstep/energy", "e_0_energy"), of("scstep/energy", "e_fr_energy")
    if free is None:
        return {}
    free -= work
    return {"free_energy": free} | ({} if zero is None or last is None else {"energy": free + zero - last})


def _convergence(step: ElementTree.Element, settings: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """Why the step is not converged, or None; and a remark where the file does not say how many steps were allowed, and nothing can be known."""
    texts = [found.text for found in step.findall("scstep/energy/i[@name='e_fr_energy']")]
    steps = int(step.get(_STEPS, "0"))
    words = convergence.of_vasp_step([float(str(text)) for text in texts], steps, settings)
    unknown = steps > 0 and not {"NELM", "EDIFF"} <= settings.keys()
    return words, (_UNKNOWN,) if unknown else ()


def _rows(element: ElementTree.Element | None) -> np.ndarray:
    if element is None:
        raise ValueError("lattice or positions are missing")
    return np.array([[float(word) for word in str(row.text).split()] for row in element.findall("v")])


def _moments(stream: BinaryIO) -> list[np.ndarray]:
    """Total magnetic moments of each atom from the tables `magnetization (x)` of an OUTCAR, one table a step."""
    tables: list[np.ndarray] = []
    rows: list[float] | None = None
    for line in TextIOWrapper(stream, errors="replace"):
        if line.startswith(" magnetization (x)"):
            rows = []
        elif rows is not None:
            words = line.split()
            if words and words[0].isdigit():
                rows.append(float(words[-1]))
            elif words and words[0] == "tot":
                tables.append(np.array(rows))
                rows = None
    return tables
