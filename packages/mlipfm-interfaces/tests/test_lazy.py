"""Public names of packages: imported on use, listed by `dir`, known to type checkers, and all there."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from mlipfm_interfaces.lazy import lazy_imports

PACKAGES = ["mlipfm_data", "mlipfm_distill", "mlipfm_eval", "mlipfm_md", "mlipfm_models", "mlipfm_train"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_imported_and_is_listed(package):
    module = import_module(package)
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_that_is_not_there_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        import_module(package).nothing  # noqa: B018


def test_importing_the_packages_imports_nothing_heavy():
    heavy = "{'torch', 'ase', 'numpy', 'rdkit', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys, {', '.join(PACKAGES)}; assert not {heavy}, {heavy}"], check=True)


def test_an_old_name_warns_with_what_to_use_instead(tmp_path, monkeypatch):
    (tmp_path / "toy_lazy").mkdir()
    (tmp_path / "toy_lazy" / "__init__.py").write_text("")
    (tmp_path / "toy_lazy" / "places.py").write_text("value = 3\nnew = 4")
    monkeypatch.syspath_prepend(str(tmp_path))
    import_module("toy_lazy")
    get, _, _ = lazy_imports("toy_lazy", {"value": (".places", "places.value"), "renamed": (".places", "new")})
    with pytest.warns(DeprecationWarning, match=r"toy_lazy\.value is an old name: use places\.value"):
        assert get("value") == 3
    with pytest.warns(DeprecationWarning, match=r"toy_lazy\.renamed is an old name: use new"):
        assert get("renamed") == 4


@pytest.mark.parametrize(("package", "old", "new"), [("mlipfm_md", "Start", "InitialState"), ("mlipfm_md", "read_starts", "read_initial_states"),
                         ("mlipfm_md", "as_starts", "as_initial_states"), ("mlipfm_md", "read_one_start", "read_one_initial_state"),
                         ("mlipfm_md.observables", "Wanted", "AnalysisRequest"), ("mlipfm_eval", "Evaluated", "Evaluation")])  # fmt: skip
def test_public_old_names_are_the_new_ones_and_warn(package, old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is an old name: use {new}"):
        assert getattr(import_module(package), old) is getattr(import_module(package), new)


@pytest.mark.parametrize("package", ["mlipfm_md", "mlipfm_models"])
def test_what_a_package_lists_is_what_its_modules_list(package):
    """A module states its public names in `__all__`; one without any begins with an underscore, or holds commands, adapters or old names.

    A package inside that lists names of its own is where its modules' names are found.
    """
    root = Path(import_module(package).__file__).parent
    own = {folder.parent for folder in root.glob("*/__init__.py") if hasattr(import_module(f"{package}.{folder.parent.name}"), "__all__")}
    for place in [root, *own]:
        name = ".".join([package, *place.relative_to(root).parts])
        listed, silent = set(), set()
        for file in place.rglob("*.py"):
            names = file.relative_to(place).with_suffix("").parts
            if names[-1] == "__init__" or any(part.startswith("_") for part in names) or (place == root and own & set(file.parents)):
                continue
            module = import_module(".".join([name, *names]))
            listed |= set(getattr(module, "__all__", []))
            silent |= set() if hasattr(module, "__all__") else {names[-1]}
        assert listed == set(import_module(name).__all__)
        commands = {"commands", "structure_commands", "doctor_command", "cli"}
        assert silent <= commands | {"builders", "ase_adapter", "emt_adapter", "foreign_potentials"}
