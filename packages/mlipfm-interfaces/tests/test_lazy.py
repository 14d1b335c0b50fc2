"""Public names of packages: imported on use, listed by `dir`, known to type checkers, and all there."""

import subprocess
import sys
from importlib import import_module

import pytest
from mlipfm_interfaces.lazy import lazy_imports

PACKAGES = ["mlipfm_distill", "mlipfm_md", "mlipfm_models", "mlipfm_train"]


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
    (tmp_path / "toy_lazy" / "places.py").write_text("value = 3")
    monkeypatch.syspath_prepend(str(tmp_path))
    import_module("toy_lazy")
    get, _ = lazy_imports("toy_lazy", {"value": (".places", "places.value")})
    with pytest.warns(DeprecationWarning, match=r"toy_lazy\.value is an old name: use places\.value"):
        assert get("value") == 3
