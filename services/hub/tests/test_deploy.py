"""The files of `deploy/` say what the server reads: variables are settings, ports and folders agree, the image installs what it needs.

The files are read here, not run: there is no container daemon where the tests run.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from mlipfm_hub.__main__ import main
from mlipfm_hub.border import LIMITS
from mlipfm_hub.settings import PREFIX, Settings, from_environment

HUB = Path(__file__).parents[1]
ROOT = HUB.parents[1]
SETTINGS = {PREFIX + item.name.upper() for item in fields(Settings) if item.name != "folder"}


@pytest.fixture
def compose():
    return yaml.safe_load((HUB / "deploy/compose.yaml").read_text())


@pytest.fixture
def image():
    """Instructions of the Dockerfile: (word, rest of the line)."""
    lines = [line for line in (HUB / "deploy/Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def environment_of(image, compose) -> dict[str, str]:
    """Variables with which the container starts: those of the image, then those of compose."""
    own = dict(rest.split("=", 1) for word, rest in image if word == "ENV")
    return own | {key: str(value).replace("${NAME:?the name of the hub, such as hub.example.org}", "hub.example.org")
                  for key, value in compose["services"]["hub"]["environment"].items()}  # fmt: skip


def test_every_variable_is_a_setting_of_the_server(image, compose):
    for name in environment_of(image, compose):
        assert name.removesuffix("_FILE") in SETTINGS, name


def test_the_server_starts_with_what_the_container_sets(image, compose, tmp_path):
    given = environment_of(image, compose)
    secret = tmp_path / "database"
    secret.write_text("postgresql+psycopg://hub:secret@database/hub\n")
    given["MLIPFM_HUB_DATABASE_FILE"] = str(secret)
    settings = from_environment(Path("/data"), given)  # checks what the server checks at its start
    assert (settings.host, settings.is_encrypted) == ("0.0.0.0", True)
    assert settings.database_url == "postgresql+psycopg://hub:secret@database/hub"
    assert "hub.example.org" in settings.allowed_hosts
    database = compose["services"]["database"]["environment"]
    assert settings.database_url.partition("//")[2].split(":")[0] == database["POSTGRES_USER"]
    assert settings.database_url.rpartition("/")[2] == database["POSTGRES_DB"]


def test_secrets_are_files_and_the_volume_is_the_folder_of_the_command(image, compose):
    hub = compose["services"]["hub"]
    for service in compose["services"].values():
        for name in service.get("secrets", ()):
            assert Path(compose["secrets"][name]["file"]).parent == Path("secrets")
    assert hub["environment"]["MLIPFM_HUB_DATABASE_FILE"] == f"/run/secrets/{hub['secrets'][0]}"
    command = json.loads(next(rest for word, rest in image if word == "CMD"))
    assert command[:2] == ["mlipfm-hub", "serve"]
    folder = command[command.index("--dir") + 1]
    assert [volume.partition(":")[2] for volume in hub["volumes"]] == [folder]
    assert {volume.partition(":")[0] for volume in hub["volumes"]} <= set(compose["volumes"])


def test_the_command_of_the_image_is_one_of_the_server(image, monkeypatch, capsys):
    served = []
    monkeypatch.setattr("mlipfm_hub.__main__.serve", lambda *given: served.append(given))
    main(json.loads(next(rest for word, rest in image if word == "CMD"))[1:])
    assert served == [(Path("/data"), None, None)]


def test_all_that_talk_to_the_hub_use_the_port_it_listens_on(image, compose):
    port = Settings(Path("x")).port
    proxy = (HUB / "deploy/Caddyfile").read_text()
    assert f"reverse_proxy hub:{port}" in proxy
    assert dict(image)["EXPOSE"] == str(port)
    health = next(rest for word, rest in image if word == "HEALTHCHECK")
    assert f"http://127.0.0.1:{port}/health" in health
    assert f"127.0.0.1:{port}" in Settings(Path("x"), public="https://hub.example.org").allowed_hosts  # by which name the check asks
    assert "ports" not in compose["services"]["hub"]  # nobody reaches it but through the proxy, which encrypts
    assert "{$NAME}" in proxy
    assert "NAME" in compose["services"]["proxy"]["environment"]


def test_the_proxy_lets_the_largest_request_of_the_hub_through():
    allowed = re.search(r"max_size (\d+)MB", (HUB / "deploy/Caddyfile").read_text())
    assert allowed is not None
    assert int(allowed[1]) * 10**6 >= max(LIMITS.values())


def test_the_image_is_built_of_folders_and_extras_that_there_are(image, compose):
    build = compose["services"]["hub"]["build"]
    assert (HUB / "deploy" / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).resolve() == HUB / "deploy/Dockerfile"
    copied = {rest.split()[1]: rest.split()[0] for word, rest in image if word == "COPY"}
    install = next(rest for word, rest in image if word == "RUN")
    for target, source in copied.items():
        assert (ROOT / source / "pyproject.toml").exists(), source
        assert target in install, f"{target} is copied and not installed"
    project = tomllib.loads((HUB / "pyproject.toml").read_text())["project"]
    extras = re.search(r"/src/hub\[([a-z0-9,]+)\]", install)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    assert "postgresql" in extras[1].split(",")  # compose gives it a database
    wanted = project["dependencies"] + project["optional-dependencies"]["predict"]
    for name in (re.split(r"[><=\[ ]", line)[0] for line in wanted if line.startswith("mlipfm-")):
        assert f"packages/{name}" in copied.values(), f"{name} comes from no index"


def test_a_server_with_the_settings_of_the_container_but_without_its_address_refuses_to_start(image, compose, tmp_path):
    given = {key: value for key, value in environment_of(image, compose).items() if key == "MLIPFM_HUB_HOST"}
    with pytest.raises(Exception, match="can be reached by others"):
        from_environment(tmp_path, given)
    assert replace(Settings(tmp_path), host="0.0.0.0").is_local is False
