"""Plug-ins by entry point, with toy distributions on the path: what importlib.metadata sees of an installed one."""

import re
import sys
import tomllib
from importlib.metadata import EntryPoints
from pathlib import Path

import pytest
from mlipfm_interfaces import plugins
from mlipfm_interfaces.cli import main
from mlipfm_interfaces.errors import PluginError


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make a distribution importable: name, entry points {name: "module:object"} in the group of readers, modules, requirements."""
    made = []

    def make(name: str, points: dict[str, str], modules: dict[str, str], requires: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / name
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        lines = "".join(f"Requires-Dist: {line}\n" for line in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{lines}")
        (info / "entry_points.txt").write_text("[mlipfm.readers]\n" + "".join(f"{key} = {value}\n" for key, value in points.items()))
        for module, code in modules.items():
            (folder / f"{module}.py").write_text(code)
            made.append(module)
        monkeypatch.syspath_prepend(str(folder))
        return folder

    yield make
    for module in made:
        sys.modules.pop(module, None)


def test_names_are_listed_without_importing_anything(install):
    install("toy-a", {"toy-numbers": "toy_a:numbers"}, {"toy_a": "raise SystemExit('imported')"})
    assert "toy-numbers" in plugins.names("readers")
    assert "toy_a" not in sys.modules


def test_loading_imports_the_object_of_the_entry_point(install):
    install("toy-b", {"toy-numbers": "toy_b:numbers"}, {"toy_b": "numbers = (1, 2, 3)"})
    assert plugins.load("readers", "toy-numbers") == (1, 2, 3)


def test_an_unknown_name_is_answered_with_the_nearest(install):
    install("toy-c", {"toy-numbers": "toy_c:numbers"}, {"toy_c": "numbers = 1"})
    with pytest.raises(PluginError, match="no reader is named 'toy-nubmers'; did you mean 'toy-numbers'"):
        plugins.load("readers", "toy-nubmers")


def test_an_unknown_name_without_a_near_one_lists_what_there_is(install):
    install("toy-d", {"toy-numbers": "toy_d:numbers"}, {"toy_d": "numbers = 1"})
    with pytest.raises(PluginError, match=r"no reader is named 'zzzz'; known: .*toy-numbers"):
        plugins.load("readers", "zzzz")


def test_an_unknown_group_lists_the_groups():
    with pytest.raises(PluginError, match=r"no plug-in group is named 'reader'; groups: readers, "):
        plugins.names("reader")


@pytest.mark.parametrize("value", ["toy_e:numbers", "toy_f:numbers"])
def test_a_name_that_two_distributions_claim_is_refused_naming_both(install, value):
    install("toy-e", {"toy-numbers": "toy_e:numbers"}, {"toy_e": "numbers = 1"})
    install("toy-f", {"toy-numbers": value}, {"toy_f": "numbers = 2"})
    assert plugins.names("readers").count("toy-numbers") == 1
    with pytest.raises(PluginError, match="reader 'toy-numbers' is claimed by toy-e and toy-f; uninstall one of them"):
        plugins.load("readers", "toy-numbers")


@pytest.mark.parametrize(("stated", "text"), [("7", "(7,)"), ("(2, 3)", "(2, 3)")])
def test_a_contract_this_version_does_not_speak_is_refused_in_one_line(install, stated, text):
    code = f"class Numbers:\n    CONTRACT = {stated}\nnumbers = Numbers()"
    install("toy-g", {"toy-numbers": "toy_g:numbers"}, {"toy_g": code})
    line = f"'toy-numbers' of toy-g supports contract {text}, this mlipfm speaks {plugins.CONTRACT}; upgrade it"
    with pytest.raises(PluginError, match=f"^{re.escape(line)}$"):
        plugins.load("readers", "toy-numbers")


def test_a_plugin_of_several_contracts_is_accepted_if_ours_is_among_them(install):
    install("toy-h", {"toy-numbers": "toy_h:Numbers"}, {"toy_h": f"class Numbers:\n    CONTRACT = ({plugins.CONTRACT}, 99)"})
    assert plugins.load("readers", "toy-numbers").CONTRACT == (plugins.CONTRACT, 99)


def test_a_failing_import_names_the_extra_that_brings_what_is_missing(install):
    requires = ("numpy>=2", 'other-library>=1; extra == "other"', "No.Such_library >=1,<2 ; extra == 'heavy'")
    install("toy-i", {"toy-numbers": "toy_i:numbers"}, {"toy_i": "import no_such_library.deep"}, requires)
    line = "'toy-numbers' of toy-i could not be imported: No module named 'no_such_library'; pip install 'toy-i[heavy]'"
    with pytest.raises(PluginError, match=f"^{re.escape(line)}$"):
        plugins.load("readers", "toy-numbers")


def test_a_missing_library_that_no_extra_brings_is_named(install):
    install("toy-j", {"toy-numbers": "toy_j:numbers"}, {"toy_j": "import no_such_library"})
    with pytest.raises(PluginError, match="; install 'no_such_library', which it needs$"):
        plugins.load("readers", "toy-numbers")


@pytest.mark.parametrize("code", ["1 / 0", "numbers = = 1", "other = 1", "import mlipfm_interfaces.no_such_module"])
def test_a_plugin_whose_code_fails_is_called_broken_and_its_distribution_named(install, code):
    install("toy-k", {"toy-numbers": "toy_k:numbers"}, {"toy_k": code})
    with pytest.raises(PluginError, match=r"'toy-numbers' of toy-k could not be imported: .*; the plug-in is broken .* uninstall toy-k"):
        plugins.load("readers", "toy-numbers")


def test_every_declared_group_is_known_to_the_registry():
    """A package of ours that declares an entry point in a group nobody reads would never be found."""
    from importlib.metadata import entry_points

    declared = {group.removeprefix("mlipfm.") for group in entry_points().groups if group.startswith("mlipfm.")}
    assert declared <= set(plugins.GROUPS)


def declared() -> dict[str, dict[str, set[str]]]:
    """Group -> package of this workspace -> names that its pyproject.toml declares."""
    found: dict[str, dict[str, set[str]]] = {}
    for path in sorted(Path(__file__).parents[2].glob("*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for group, points in project.get("entry-points", {}).items():
            found.setdefault(group.removeprefix("mlipfm."), {})[project["name"]] = set(points)
    return found


def test_packages_that_are_named_for_installing_are_those_that_declare_plugins():
    groups = declared()
    for group, packages in plugins.HOMES.items():
        assert set(packages) == set(groups[group]) - {"mlipfm-interfaces"}, group
    brought = {name: package for package, names in groups["commands"].items() for name in names}
    assert {name: package for name, package in brought.items() if "." not in name and package != "mlipfm-interfaces"} == plugins.COMMANDS


def test_what_is_not_installed_is_named_with_the_package_that_brings_it(monkeypatch):
    monkeypatch.setattr(plugins, "_declared", lambda group, path: EntryPoints())
    monkeypatch.setattr(plugins, "_installed", lambda package: package != "mlipfm-models")
    with pytest.raises(PluginError, match="no potential is named 'mace'.*mlipfm-models is not installed: pip install mlipfm-models$"):
        plugins.load(plugins.POTENTIALS, "mace")


def test_a_command_that_is_not_installed_is_named_with_its_package(monkeypatch, capsys):
    monkeypatch.setattr(plugins, "_declared", lambda group, path: EntryPoints())
    with pytest.raises(SystemExit):
        main(["evaluate", "model", "data"])
    assert "mlipfm-eval brings it: pip install mlipfm-eval" in capsys.readouterr().err
