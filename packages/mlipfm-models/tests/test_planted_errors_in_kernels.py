"""Wrong versions of the compiled kernels, built one after the other: the comparisons and distributions notice every one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "packages" / "mlipfm-kernels"
EQUALITY = "packages/mlipfm-models/tests/test_density_kernel.py"
PRODUCTS = "packages/mlipfm-models/tests/test_compiled_products.py"
DYNAMICS = "packages/mlipfm-md/tests/test_compiled_dynamics.py"

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not all(map(shutil.which, ("g++", "cmake", "ninja"))), reason="no g++, cmake and ninja here"),
]


@dataclass(frozen=True)
class Error:
    """`old` becomes `new` in a file of the kernels (.cpp where nothing else is said); `tests` notice it."""

    name: str
    file: str
    old: str
    new: str
    tests: str = DYNAMICS

    @property
    def path(self) -> str:
        return self.file if "." in self.file else f"{self.file}.cpp"


ERRORS = [
    Error("trained distance without its derivative", "density_kernel", "slope * change", "slope", EQUALITY),
    Error("trained distance of another pair", "density_kernel", "m.types + list.run_type[run]", "m.types", EQUALITY),
    Error("trained distance of the wrong power", "density_kernel", "(square * square * fourth)", "(square * fourth)", EQUALITY),
    Error("friction halved", "dynamics", "std::exp(-e.friction * e.dt)", "std::exp(-e.friction * e.dt / 2)"),
    Error(
        "noise amplitude",
        "dynamics",
        "(1 - keep * keep) * e.boltzmann * e.temperature[s] * e.acceleration",
        "(1 - keep) * e.boltzmann * e.temperature[s] * e.acceleration",
    ),
    Error("noise of every step the same", "dynamics", "low_(uint32_t(step))", "low_(0)"),
    Error("rescaling with another number of degrees of freedom", "dynamics", "stream.squares(n - 1, 1)", "stream.squares(n, 1)"),
    Error("heat of the rescaling with the wrong sign", "dynamics", "m.heat[s] += after - before", "m.heat[s] -= after - before"),
    Error("chain driven to twice the temperature", "dynamics", "v[k - 1] * v[k - 1] - kt", "v[k - 1] * v[k - 1] - 2 * kt"),
    Error("chain damped for twice as long", "dynamics", "std::exp(-v[k + 1] * h / 4)", "std::exp(-v[k + 1] * h / 2)"),
    Error("motion of the centre of mass scaled", "dynamics", "factor * x + (1 - factor) * v[k]", "factor * x"),
    Error("barostat without the kinetic share", "dynamics", "(kin[0] + kin[4] + kin[8]) / (3.0 * (end(s) - begin(s))) -", "0.0 -"),
    Error("momenta without the trace of the cell's motion", "dynamics", "-rate[q] - (q % 4 == 0 ? trace : 0)", "-rate[q]"),
    Error("mass of the cell", "dynamics", "(3.0 * (end(s) - begin(s)) + 3)", "(3.0 * (end(s) - begin(s)))"),
    Error(
        "stress of the barostat with the wrong sign",
        "dynamics",
        "m.stress[9 * (size_t)s + q] = v[place[q]]",
        "m.stress[9 * (size_t)s + q] = -v[place[q]]",
    ),
    Error("fixed atoms kicked", "dynamics", "m.movable[3 * i + k] ? f * m.force[3 * i + k] : 0", "f * m.force[3 * i + k]"),
    Error("list used until an atom has moved by the whole skin", "neighbors", "- cutoff_) / 2;", "- cutoff_);", EQUALITY),
    Error(
        "list that forgets the deformation of the cell",
        "neighbors",
        "(1 - std::sqrt(change)) * (cutoff_ + skin_)",
        "(cutoff_ + skin_)",
        EQUALITY,
    ),
    Error(
        "missing image",
        "neighbors",
        "int(std::ceil(flow[k] - margin[k] - f[k]))",
        "int(std::ceil(flow[k] - margin[k] - f[k])) + 1",
        EQUALITY,
    ),
    Error(
        "image on the other side",
        "neighbors",
        "p[k] = q[k] + (n[0] * h[k] + n[1] * h[3 + k] + n[2] * h[6 + k]);\n  }\n}",
        "p[k] = q[k] - (n[0] * h[k] + n[1] * h[3 + k] + n[2] * h[6 + k]);\n  }\n}",
        EQUALITY,
    ),
    Error("virial with the wrong sign", "density_kernel", "v[0] += sum(v0); v[1]", "v[0] -= sum(v0); v[1]", EQUALITY),
    Error("derivative of the cutoff function", "geometry.h", "real(-168) * (t2 * t2 * t)", "real(-84) * (t2 * t2 * t)", EQUALITY),
    Error("derivative of the repulsion's cutoff function", "density_kernel", "plain(2) * phi * steep", "phi * steep", EQUALITY),
    Error(
        "gradient of a harmonic",
        "geometry.h",
        "gy += d4 * x + d5 * z - d6 * y - d8 * y;",
        "gy += d4 * x + d5 * z - d6 * y + d8 * y;",
        EQUALITY,
    ),
    Error("change of a reciprocal", "geometry.h", "return {q, -q * b.by / b.at};", "return {q, -q * b.by};", PRODUCTS),
    Error(
        "change of an expansion without that of its radial functions",
        "expansion_kernel",
        "product(R, K, columns, a + twin,",
        "if (R < 0) product(R, K, columns, a + twin,",
        PRODUCTS,
    ),
    Error(
        "kinds of neighbours in each other's place", "expansion_kernel", "w.place[t] = w.start[t];", "w.place[t] = w.start[0];", PRODUCTS
    ),
    Error("gradient of an expansion off the sphere", "expansion_kernel", "radial - q * (gx * x + gy * y + gz * z)", "radial", PRODUCTS),
    Error("pull of a neighbour without its reaction", "displacements", "by_x[3 * a + c] -= back[c]; }", "}", PRODUCTS),
    Error("messages that forget a share of the slope", "products_kernel", "turn * s + slope * v_s", "turn * s", PRODUCTS),
    Error(
        "second derivative by the weights", "products_kernel", "v.R, p.functions, w.by_v, by.W", "v.R, p.functions, w.by_F, by.W", PRODUCTS
    ),
    Error(
        "columns at the end left out", "products_kernel", "for (; column < end; column++)", "for (; column + 1 < end; column++)", PRODUCTS
    ),
]


class Built:
    """A copy of the package that is built again, file by file, with the portable instructions alone."""

    def __init__(self, folder: Path, python: str) -> None:
        self.source, self.build, self.module = folder / "source", folder / "build", folder / "path" / "mlipfm_kernels"
        shutil.copytree(PACKAGE, self.source, ignore=shutil.ignore_patterns("build", "__pycache__"))
        shutil.copytree(self.source / "src" / "mlipfm_kernels", self.module)
        options = ["-G", "Ninja", f"-DPython_EXECUTABLE={python}", "-DISAS=v2", "-DCMAKE_BUILD_TYPE=Release"]
        subprocess.run(["cmake", "-S", str(self.source), "-B", str(self.build), *options], check=True, capture_output=True)

    def with_text(self, file: str, text: str) -> None:
        """Build with another text of one file."""
        (self.source / "cpp" / file).write_text(text)
        subprocess.run(["cmake", "--build", str(self.build), "-j", "1"], check=True, capture_output=True)
        (library,) = self.build.glob("_kernels*.so")
        shutil.copy(library, self.module / library.name)

    def notices(self, tests: str) -> bool:
        """Whether a test fails, first of the push tier, then of the ci tier."""
        path = os.pathsep.join([str(self.module.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        for tier in ("push", "ci"):
            words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tier", tier, tests]
            done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
            assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
            if done.returncode:
                return True
        return False


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    from build.env import DefaultIsolatedEnv

    with DefaultIsolatedEnv() as environment:
        environment.install(["nanobind>=2.4,<4"])
        yield Built(tmp_path_factory.mktemp("kernels"), environment.python_executable)


def texts(error: Error) -> tuple[str, str]:
    """The file as it is, and with the error."""
    right = (PACKAGE / "cpp" / error.path).read_text()
    assert right.count(error.old) == 1, f"{error.name}: {error.old!r} occurs {right.count(error.old)} times"
    return right, right.replace(error.old, error.new)


def test_every_error_changes_one_place_of_the_source() -> None:
    assert all(right != wrong for right, wrong in map(texts, ERRORS))


@pytest.mark.parametrize("tests", [EQUALITY, DYNAMICS])
def test_right_kernels_of_the_same_build_pass(kernels: Built, tests: str) -> None:
    kernels.with_text(ERRORS[0].path, texts(ERRORS[0])[0])
    assert not kernels.notices(tests)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.name)
def test_errors_are_noticed(kernels: Built, error: Error) -> None:
    right, wrong = texts(error)
    try:
        kernels.with_text(error.path, wrong)
        assert kernels.notices(error.tests)
    finally:
        (kernels.source / "cpp" / error.path).write_text(right)
