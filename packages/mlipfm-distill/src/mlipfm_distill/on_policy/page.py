"""`report.html`: one file with everything that was measured, and `report.png` with its charts."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from mlipfm_interfaces.files import atomic_write
from mlipfm_interfaces.html_page import chart_grid, document, paragraphs, section, table

Found = Mapping[str, Any]
Panel = Callable[[Any, Found], None]

#: How units of frequencies are printed.
UNITS = {"THz": "THz", "cm-1": "cm⁻¹"}


def write_page(found: Found, out: Path) -> None:
    """Write `report.html` and `report.png` into `out`."""
    panels = _panels(found)
    picture = _charts(found, list(panels.values()))
    atomic_write(out / "report.png", picture)
    image = f'<img alt="" style="max-width:100%" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
    students = found["students"]
    sections = [
        f"<h1>{escape(found['teacher']['uri'])} distilled</h1>" + paragraphs(summary(found)),
        section("Students", _students(students), "Errors are on frames of the student's own dynamics that nothing was trained on."),
        section("Charts", chart_grid([(image, "; ".join(panels))])),
        section("Errors by temperature", _by_temperature(students)),
        section("Beside the teacher", _physics(found)),
        section("Rounds", _rounds(found), "Errors of the student before, on frames of its own dynamics, before it learned from them."),
        section("Where it fails", paragraphs(_failures(found))),
        section("Use it", f"<pre>{escape((out / 'run_ase.py').read_text())}</pre>"),
    ]
    atomic_write(out / "report.html", document(f"{found['teacher']['uri']} distilled", sections, light_figures=True).encode())


def summary(found: Found) -> list[str]:
    """Return the lines that are printed at the end, the most important first."""
    lines = []
    for size, s in found["students"].items():
        error, speed = s["errors"]["force_mae"], s["speed"]
        interval = "" if error["ci95"] is None else f" [{error['ci95'][0]:.1f}, {error['ci95'][1]:.1f}]"
        lines.append(
            f"{s['file']} ({size}): force MAE {error['value']:.1f}{interval} meV/Å to the teacher on its own dynamics "
            f"(rms force {s['errors']['force_rms']['value']:.0f}), {speed['ratio']:,.0f} times faster: "
            f"{speed['student_us_per_atom_step']:.1f} and {speed['teacher_us_per_atom_step']:,.0f} µs per atom and step"
        )
    drift, stable = found["drift"], found["stability"]
    lines.append(
        f"energy drift {_number(drift['drift']['value'])} meV/atom/ps in {drift['ps']:g} ps at constant energy; "
        f"{stable['stable']} of {stable['seeds']} runs of {stable['ps']:.3g} ps at {stable['kelvin']:g} K stable"
    )
    if found["equilibrium"] is not None:
        e = found["equilibrium"]
        lines.append(
            f"length of the cell at the lowest energy {e['length_difference_percent']:+.2f} % beside the teacher's; bulk modulus "
            f"{e['bulk_modulus_gpa']['student']:.1f}, teacher {e['bulk_modulus_gpa']['teacher']:.1f} GPa"
        )
    lines += [*_frequency_lines(found), *_distribution_lines(found)]
    first = next(iter(found["students"].values()))["validity"]
    lines.append(
        f"range: sigma of a force up to {first['largest_sigma']:.3f} eV/Å; it flags {first['bad_flagged']} of {first['bad']} frames that are "
        f"predicted badly, and {first['test_flagged']} of {first['test']} frames in the range"
    )
    return [*lines, found["needed"]]


def _frequency_lines(found: Found) -> list[str]:
    f = found.get("frequencies")  # not in results of earlier versions
    if f is None:
        return []
    if "reason" in f:
        return [f"frequencies beside the teacher's were not measured: {f['reason']}"]
    unit = UNITS[f["unit"]]
    lines = [f"{f['kind']}: {f['note']}"] if f.get("note") else []
    return [
        f"{f['kind']}: off by {f['mae']:.3g} {unit} on average; the largest {f['largest']['student']:.4g}, teacher {f['largest']['teacher']:.4g} "
        f"{unit}; the lowest {f['lowest']['student']:.3g} and {f['lowest']['teacher']:.3g}",
        *lines,
    ]


def _distribution_lines(found: Found) -> list[str]:
    lines = []
    for at in found.get("distributions", []):
        words = (
            f"g(r) of the teacher at {at['kelvin']:g} K, from {at['frames']} frames of the student of which {at['effective']:.1f} count: "
        )
        if "reason" in at:
            lines.append(f"g(r) of the teacher at {at['kelvin']:g} K was not measured: {at['reason']}")
        elif "needed" in at:
            lines.append(words + f"not resolved; about {at['needed']:,} labels would do")
        else:
            worst = max(at["pairs"], key=lambda name: _distance(at["pairs"][name]))
            lines.append(words + f"at most {_distance(at['pairs'][worst]):.2g} from the student's ({worst})")
    return lines


def _distance(pair: Found) -> float:
    return float(np.abs(np.array(pair["student"]) - np.array(pair["teacher"])).max())


def _students(students: Mapping[str, Found]) -> str:
    head = ["size", "force MAE, meV/Å", "energy MAE, meV/atom", "rms force, meV/Å", "µs per atom and step", "times the teacher", "code"]
    rows = []
    for size, s in students.items():
        e, v = s["errors"], s["speed"]
        rows.append(
            [escape(size), _metric(e["force_mae"]), _metric(e["energy_mae"]), f"{e['force_rms']['value']:.0f}",
             f"{v['student_us_per_atom_step']:.2f}", f"{v['ratio']:,.0f}", escape(v["student_code"])]
        )  # fmt: skip
    return table(head, rows)


def _by_temperature(students: Mapping[str, Found]) -> str:
    kinds = [key for key in next(iter(students.values()))["errors"] if key.startswith("force_mae ")]
    rows = [[escape(size), *(_metric(s["errors"][key]) for key in kinds)] for size, s in students.items()]
    return table(["force MAE, meV/Å", *(escape(key.removeprefix("force_mae ")) for key in kinds)], rows)


def _physics(found: Found) -> str:
    drift, a, stable, e, direct = found["drift"], found["asymmetry"], found["stability"], found["equilibrium"], found.get("teacher_drift")
    rows = [
        [
            "energy drift, meV/atom/ps",
            _number(drift["drift"]["value"]),
            "-" if direct is None else f"{_number(direct['drift']['value'])} in {direct['ps']:g} ps",
            f"{drift['ps']:g} ps, {drift['dt']:g} fs, {drift['kelvin']:g} K",
        ],
        ["energy fluctuation, meV/atom", _number(drift["fluctuation"]["value"]), "-", ""],
        [
            "asymmetry of the Jacobian",
            f"{a['student']:.1e}",
            f"{a['teacher']:.1e}",
            f"student in {a['student_dtype']}, exact; teacher in {a['teacher_dtype']}, steps of {a['teacher_step']:g} Å",
        ],
        ["stable runs", f"{stable['stable']} of {stable['seeds']}", "-", f"{stable['ps']:.3g} ps each, {stable['kelvin']:g} K"],
    ]
    if e is not None:
        scale, modulus = e["scale"], e["bulk_modulus_gpa"]
        rows.append(["length of the cell / that of the file", f"{scale['student']:.5f}", f"{scale['teacher']:.5f}",
                     f"{e['length_difference_percent']:+.3f} %"])  # fmt: skip
        rows.append(["bulk modulus, GPa", f"{modulus['student']:.1f}", f"{modulus['teacher']:.1f}", ""])
    if found.get("floor"):
        rows.append(
            ["least force error of any conservative student, meV/Å", "-", _metric(found["floor"]), "from the work around small loops"]
        )
    f = found.get("frequencies") or {}
    if "mae" in f:
        for end in ("largest", "lowest"):
            rows.append([f"{f['kind']}, {end}, {UNITS[f['unit']]}", f"{f[end]['student']:.4g}", f"{f[end]['teacher']:.4g}",
                         f"all: off by {f['mae']:.3g} on average" if end == "largest" else ""])  # fmt: skip
    for at in found.get("distributions", []):
        rows.append([f"effective frames for g(r) at {at['kelvin']:g} K", f"{at['frames']}", f"{at['effective']:.1f}",
                     at.get("reason") or ("not resolved" if "needed" in at else "")])  # fmt: skip
    return table(["", "student", "teacher", ""], rows)


def _rounds(found: Found) -> str:
    rows = []
    for k, r in enumerate(found["rounds"]):
        own = r.get("on_policy_force_mae")
        broke = f"{r['broken']} of {r['runs']} runs of {r['ps']:.3g} ps" if "runs" in r else "-"
        rows.append([str(k), str(r["labelled"]), "-" if own is None else f"{1000 * own:.1f}", f"{1000 * r['valid_force_mae']:.1f}", broke,
                     f"{r['steps']:,}", f"{r['seconds']:.0f}"])  # fmt: skip
    head = ["round", "new labels", "force MAE on its own frames", "on the validation part", "dynamics that broke", "steps", "seconds"]
    return table(head, rows)


def _failures(found: Found) -> list[str]:
    lines = [f"stopped: {reason}" for reason in found["stability"]["reasons"][:3]]
    for size, s in found["students"].items():
        points = np.array(s["validity"]["points"])
        inside, beyond = points[: s["validity"]["test"], 1], points[s["validity"]["test"] :, 1]
        if len(beyond):
            lines.append(
                f"{size}: frames hotter or more strained than it was made for have a force error of {1000 * np.median(beyond):.0f} meV/Å, "
                f"those in the range {1000 * np.median(inside):.0f} (medians of {len(beyond)} and {len(inside)} frames)"
            )
        missed = s["validity"]["bad"] - s["validity"]["bad_flagged"]
        if missed:
            lines.append(f"{size}: {missed} of {s['validity']['bad']} badly predicted frames are not flagged by the uncertainty")
    if found["refused"]:
        lines.append(f"{found['refused']} frames could not be labelled by the teacher: labels/refused.json")
    return lines


def _panels(found: Found) -> dict[str, Panel]:
    """Return what there is to draw, by its words in the caption: nothing is left empty."""
    modes, structure = found.get("frequencies") or {}, found.get("distributions") or []
    return {
        "errors of every round over labels": _learning,
        "errors of frames over their uncertainty": _range,
        **({"error over cost of each size": _front} if len(found["students"]) > 1 else {}),
        **({"energies of scaled cells": _cells} if found["equilibrium"] is not None else {}),
        **({str(modes["kind"]): _modes} if "student" in modes else {}),
        **({"g(r)": _structure} if structure and structure[0]["pairs"] else {}),
    }


def _charts(found: Found, panels: Sequence[Panel]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.7 * columns, 3.4 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, draw in zip(places, panels, strict=False):
        draw(axes, found)
        axes.legend()
    for axes in places[len(panels) :]:
        axes.remove()
    FigureCanvasAgg(figure)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    return data.getvalue()


def _logarithmic(axes: Any) -> None:
    """Label every decade, and 2 and 5 of each where there are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _learning(axes: Any, found: Found) -> None:
    """Draw errors over labels, of every round."""
    rounds = found["rounds"]
    counts = np.cumsum([r["labelled"] for r in rounds])
    own = [np.nan if r.get("on_policy_force_mae") is None else 1000 * r["on_policy_force_mae"] for r in rounds]
    axes.plot(counts - [r["labelled"] for r in rounds] + 1e-9, own, "o-", label="on its own frames")
    axes.plot(counts, [1000 * r["valid_force_mae"] for r in rounds], "s--", label="validation part")
    axes.set(xlabel="labels", ylabel="force MAE / meV/Å", xlim=(counts[0] * 0.8, counts[-1] * 1.25))
    _logarithmic(axes)


def _front(axes: Any, found: Found) -> None:
    """Draw error over cost of each size."""
    for size, s in found["students"].items():
        axes.plot(s["speed"]["student_us_per_atom_step"], s["errors"]["force_mae"]["value"], "o", label=size)
    axes.set(xlabel="µs per atom and step", ylabel="force MAE / meV/Å")
    _logarithmic(axes)


def _range(axes: Any, found: Found) -> None:
    """Draw errors of frames over their uncertainty."""
    first = next(iter(found["students"].values()))["validity"]
    points, n = np.array(first["points"]), first["test"]
    axes.plot(points[:n, 0], 1000 * points[:n, 1], ".", label="in the range")
    axes.plot(points[n:, 0], 1000 * points[n:, 1], "x", color="C3", label="hotter, more strained")
    axes.axvline(first["largest_sigma"], color="0.5", lw=0.8)
    axes.set(xlabel="largest σ of a force / eV/Å", ylabel="force MAE of the frame / meV/Å")
    _logarithmic(axes)


def _cells(axes: Any, found: Found) -> None:
    """Draw energies of scaled cells."""
    for name, style in (("teacher", "o-"), ("student", "x--")):
        axes.plot(found["equilibrium"]["scales"], found["equilibrium"]["energies"][name], style, label=name)
    axes.set(xlabel="length of the cell / that of the file", ylabel="energy above the lowest / eV")


def _modes(axes: Any, found: Found) -> None:
    """Draw phonons along the path, or vibrations of the student over those of the teacher."""
    f = found["frequencies"]
    if f["kind"] == "phonons":
        for name, style in (("teacher", "k-"), ("student", "C1--")):
            lines = axes.plot(f["distances"], f[name], style, lw=0.9)
            lines[0].set_label(name)
        axes.set(xlabel="path in the Brillouin zone / Å⁻¹", ylabel="frequency / THz")
    else:
        axes.plot(f["teacher"], f["teacher"], "k-", lw=0.8, label="teacher")
        axes.plot(f["teacher"], f["student"], "C1.", label="student")
        axes.set(xlabel="vibration of the teacher / cm⁻¹", ylabel="of the student / cm⁻¹")


def _structure(axes: Any, found: Found) -> None:
    """Draw g(r) at the first temperature, the teacher's where it is resolved."""
    first = found["distributions"][0]
    for k, (name, pair) in enumerate(list(first["pairs"].items())[:3]):
        axes.plot(pair["r"], pair["student"], f"C{k}", label=f"{name}, student")
        if "teacher" in pair:
            axes.plot(pair["r"], pair["teacher"], f"C{k}:", label="teacher")
    axes.set(xlabel="r / Å", ylabel="g(r)", title=f"{first['kelvin']:g} K" + (", teacher not resolved" if "needed" in first else ""))


def _metric(m: Found) -> str:
    interval = "" if m["ci95"] is None else f" [{m['ci95'][0]:.3g}, {m['ci95'][1]:.3g}]"
    return f"{_number(m['value'])}{interval}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
