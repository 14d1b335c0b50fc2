"""The `mlipfm` command as a user meets it: real processes, with toy distributions on the path."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import typer
from mlipfm_interfaces.cli import main, old_names

HEAVY = ("torch", "ase", "mlflow", "rdkit", "tblite")

TOY = '''
import time
import typer
from mlipfm_interfaces.errors import UnreadableFileError

app = typer.Typer(help="Toys.")

@app.command()
def fail():
    """Fails as a reader would."""
    raise UnreadableFileError("expected 3 columns,\\n got 2", where="train.xyz:7", hint="repair the line")

@app.command()
def crash():
    raise ZeroDivisionError("half")

@app.command()
def missing():
    open("/nowhere/at/all")

@app.command()
def sleep(marker: str):
    with open(marker, "w"):
        pass
    time.sleep(60)
'''

SOLO = '''
import typer
app = typer.Typer()

@app.command()
def solo(count: int = 1):
    """One command, mounted under its own name."""
    for _ in range(count):
        typer.echo("x")
'''


def distribution(folder: Path, name: str, points: dict[str, str], modules: dict[str, str], requires: tuple[str, ...] = ()) -> None:
    """A distribution that importlib.metadata finds when `folder` is on the path."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = "".join(f"Requires-Dist: {line}\n" for line in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{lines}")
    (info / "entry_points.txt").write_text("[mlipfm.commands]\n" + "".join(f"{key} = {value}\n" for key, value in points.items()))
    for module, code in modules.items():
        (folder / f"{module}.py").write_text(code)


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    points = {"toy": "toy_command:app", "solo": "solo_command:app", "broken": "broken_command:app", "wrong": "solo_command:solo"}
    points |= {"toy.solo": "solo_command:app", "toy.lost": "broken_command:app"}
    modules = {"toy_command": TOY, "solo_command": SOLO, "broken_command": "import no_such_library"}
    distribution(folder, "toys", points, modules, ('no-such-library>=1; extra == "heavy"',))
    return folder


def process(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(path) if path else ""}
    line = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()", *words]
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=60)


@pytest.fixture
def run(toys, monkeypatch, capsys):
    """Exit status, stdout and stderr of a line, in this process."""
    monkeypatch.syspath_prepend(str(toys))

    def line(*words: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(words)
        return (exit_.value.code, *capsys.readouterr())

    yield line
    for name in ("toy_command", "solo_command"):
        sys.modules.pop(name, None)


def test_help_lists_plugins_and_says_which_are_broken_and_why(toys):
    done = process("--help", path=toys)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Toys." in done.stdout
    assert "One command, mounted under its own name." in done.stdout
    assert "version" in done.stdout
    reason = "'broken' of toys could not be imported: No module named 'no_such_library'; pip install 'toys[heavy]'"
    assert reason in " ".join(done.stdout.split())


def test_a_border_error_is_one_line_with_code_place_and_mend_and_exit_status_2(toys):
    done = process("toy", "fail", path=toys)
    assert done.returncode == 2
    assert done.stderr == "mlipfm: error[unreadable-file]: train.xyz:7: expected 3 columns, got 2; repair the line\n"


@pytest.mark.parametrize("line", [("--debug", "toy", "fail"), ("toy", "fail", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(run, line):
    status, _, err = run(*line)
    assert status == 2
    assert "Traceback" in err
    assert err.endswith("mlipfm: error[unreadable-file]: train.xyz:7: expected 3 columns, got 2; repair the line\n")


def test_debug_after_a_double_dash_belongs_to_the_command(run):
    status, _, err = run("solo", "--", "--debug")
    assert status == 2
    assert err.startswith("mlipfm: error[usage]: ")
    assert "Traceback" not in err


def test_a_defect_of_ours_is_one_line_that_asks_for_a_report_and_exit_status_1(toys):
    done = process("toy", "crash", path=toys)
    assert done.returncode == 1
    assert done.stderr.startswith("mlipfm: error[defect]: ZeroDivisionError: half; ")
    assert done.stderr.count("\n") == 1


def test_a_missing_file_names_the_file(run):
    assert run("toy", "missing") == (2, "", "mlipfm: error[file]: /nowhere/at/all: No such file or directory\n")


def test_a_misspelt_command_is_answered_with_the_nearest(run):
    assert run("versoin") == (2, "", "mlipfm: error[plugin]: no command is named 'versoin'; did you mean 'version'?\n")


def test_no_command_shows_the_help_and_fails(run):
    status, _, err = run()
    assert status == 2
    assert "Usage: mlipfm [OPTIONS] COMMAND" in err


def test_a_wrong_option_is_one_line_and_points_to_the_help_of_that_command(run):
    status, _, err = run("solo", "--count", "many")
    assert status == 2
    assert err.startswith("mlipfm: error[usage]: ")
    assert "--count" in err
    assert err.endswith("see mlipfm solo --help\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [("broken",), ("broken", "--help"), ("broken", "what", "--ever")])
def test_running_a_broken_plugin_says_which_extra_brings_what_is_missing(run, words):
    status, _, err = run(*words)
    assert status == 2
    assert "pip install 'toys[heavy]'" in err
    assert err.count("\n") == 1


def test_an_entry_point_that_is_no_typer_app_is_refused(run):
    assert "its entry point must be a typer.Typer" in run("wrong")[2]


def test_a_single_command_of_the_entry_points_name_is_mounted_as_a_command(run):
    assert run("solo", "--count", "3") == (0, "x\nx\nx\n", "")


def test_a_package_adds_a_command_to_the_group_of_another(run):
    assert run("toy", "solo", "--count", "2") == (0, "x\nx\n", "")
    assert "no_such_library" in run("toy", "lost")[2]
    assert run("toy.solo")[2].startswith("mlipfm: error[plugin]: no command is named 'toy.solo'")
    shown = run("toy", "--help")[1]
    assert "solo" in shown
    assert "greet" in shown or "crash" in shown


def test_an_interrupt_is_one_line_that_says_the_work_resumes(toys, tmp_path):
    marker = tmp_path / "started"
    line = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()", "toy", "sleep", str(marker)]
    sleeper = subprocess.Popen(line, env=os.environ | {"PYTHONPATH": str(toys)}, stderr=subprocess.PIPE, text=True)
    while not marker.exists():
        assert sleeper.poll() is None
        time.sleep(0.02)
    sleeper.send_signal(signal.SIGINT)
    _, stderr = sleeper.communicate(timeout=30)
    assert (sleeper.returncode, stderr) == (130, "mlipfm: interrupted; run the same command again to resume where it stopped\n")


def test_a_reader_of_the_output_that_goes_away_causes_no_noise(toys):
    line = [sys.executable, "-c", "from mlipfm_interfaces.cli import main; main()", "solo", "--count", "200000"]
    writer = subprocess.Popen(line, env=os.environ | {"PYTHONPATH": str(toys)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with writer:
        writer.stdout.read(1)
        writer.stdout.close()
        assert writer.stderr.read() == b""
        assert writer.wait(30) == 1


def test_version_lists_the_installed_packages_and_torch_only_when_asked(run):
    plain, everything = run("version")[1], run("version", "--all")[1]
    assert f"mlipfm-interfaces    {metadata.version('mlipfm-interfaces')}" in plain
    assert "torch" not in plain
    assert metadata.version("torch") in everything


def test_the_option_version_prints_what_the_command_does(run):
    assert run("--version") == run("version")


def imported(code: str, path: Path | None = None) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    code += "\nimport sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    env = os.environ | {"PYTHONPATH": str(path) if path else ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_no_heavy_library():
    modules = imported("from mlipfm_interfaces.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass")
    assert "mlipfm_interfaces" in modules
    assert not modules & {*HEAVY, "numpy", "scipy", "pandas"}


def test_packages_and_command_modules_import_no_heavy_library():
    """`import mlipfm_data` must be cheap, and so must each module that declares commands."""
    packages = {
        dist.name.replace("-", "_") for dist in metadata.distributions() if dist.name == "mlipfm" or dist.name.startswith("mlipfm-")
    }
    modules = sorted(packages | {point.module for point in metadata.entry_points(group="mlipfm.commands")})
    assert "mlipfm_interfaces" in modules
    if imported("\n".join(f"import {module}" for module in modules)) & set(HEAVY):
        guilty = {module: heavy for module in modules if (heavy := sorted(imported(f"import {module}") & set(HEAVY)))}
        assert guilty == {}


def test_old_names_of_commands_and_options_work_and_warn(capsys):
    group = typer.Typer(context_settings=old_names({"fetch": "get", "--as": "--file-name"}))

    @group.command()
    def get(file_name: str = typer.Option(None)):
        typer.echo(f"name {file_name}")

    @group.command()
    def other(kind: str = "fetch", as_it: bool = typer.Option(False, "--as-it")):
        typer.echo(f"kind {kind} {as_it}")

    for words, printed, warnings in [
        (["get", "--file-name", "as"], "name as", []),
        (["fetch", "--as", "a"], "name a", ["`fetch` is an old name: use `get`", "`--as` is an old name: use `--file-name`"]),
        (["get", "--as=b"], "name b", ["`--as` is an old name: use `--file-name`"]),
        (["other", "--kind", "fetch", "--as-it"], "kind fetch True", []),
    ]:
        typer.main.get_command(group).main(words, standalone_mode=False)
        out, err = capsys.readouterr()
        assert out.strip() == printed
        assert err.splitlines() == [f"mlipfm: warning: {text}" for text in warnings]


def test_threads_that_wait_do_not_hold_a_core(monkeypatch):
    """libgomp spins without end by default where threads fit the cores; what the user says of waiting is kept."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        main(["version"])
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    with pytest.raises(SystemExit):
        main(["version"])
    assert "GOMP_SPINCOUNT" not in os.environ
