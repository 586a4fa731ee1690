"""The images, the compose file and the systemd unit agree with each other and with the project.

No container engine is needed: what the files name is looked up, and what a container would run is run.
"""

import configparser
import fnmatch
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from replicator.observe.http import HttpServer
from replicator.settings import describe_settings
from tests.unit.dockerfile import copied, instructions, last

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETTINGS = {name for name, _, _ in describe_settings()}
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "replicator"}


def environment(dockerfile: Path) -> dict[str, str]:
    words = shlex.split(" ".join(arguments for name, arguments in instructions(dockerfile) if name == "ENV"))
    return dict(word.split("=", 1) for word in words)


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path from the builder: the last pattern that matches it or a parent decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = Path(path).parts
        prefixes = ["/".join(parts[: number + 1]) for number in range(len(parts))]
        names = prefixes + (list(parts) if "**/" in line else [])
        if line and not line.startswith("#") and any(fnmatch.fnmatch(name, pattern) for name in names):
            verdict = not line.startswith("!")
    return verdict


def plain(value: str) -> str:
    """A value of the compose file with its defaults put in."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Where a service's volumes are: path in the container to source."""
    return {volume.split(":")[1]: volume.split(":")[0] for volume in service.get("volumes", [])}


# --- the daemon's image -----------------------------------------------------------------------------------------------

DAEMON = DEPLOY / "Dockerfile"


def test_the_image_copies_what_is_there_and_reaches_the_builder() -> None:
    assert len(copied(DAEMON)) >= 6
    assert [path for path in copied(DAEMON) if not (ROOT / path).exists()] == []
    assert [path for path in copied(DAEMON) if ignored(path)] == []


def test_the_builder_is_given_no_more() -> None:
    kept = [path.name for path in ROOT.iterdir() if not ignored(path.name)]
    assert set(kept) <= {path.rstrip("/") for path in copied(DAEMON)}
    assert ignored("replicator/__pycache__")
    assert ignored("replicator/apply/x.pyc")
    assert not ignored("replicator/apply/x.py")


def test_the_image_has_what_the_package_is_built_from() -> None:
    project = PYPROJECT["project"]
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"], *packages}
    assert needed <= {path.rstrip("/") for path in copied(DAEMON)}


def test_the_images_python_is_one_that_the_package_supports() -> None:
    [version] = [arguments for name, arguments in instructions(DAEMON) if name == "ARG"]
    assert f">={version.split('=')[1]}" == PYPROJECT["project"]["requires-python"]  # the version that CI tests


def test_the_entry_point_is_a_console_script_and_its_command_exists() -> None:
    [script] = json.loads(last(DAEMON, "ENTRYPOINT"))
    module, function = PYPROJECT["project"]["scripts"][script].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    command = [sys.executable, "-m", module, *json.loads(last(DAEMON, "CMD")), "--help"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_image_does_not_run_as_root() -> None:
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last(DAEMON, "USER"))


def test_the_image_knows_the_settings_it_gives() -> None:
    given = {name for name in environment(DAEMON) if name.startswith("REPLICATOR_")}
    assert given
    assert given <= SETTINGS


@pytest.fixture
def health() -> list[str | None]:
    return [None]


@pytest.fixture
def listening(health: list[str | None]) -> Iterator[HttpServer]:
    server = HttpServer("0.0.0.0:0", CollectorRegistry(), dict, lambda: health[-1], lambda: "not ready")
    server.start()
    yield server
    server.stop()


def health_check(listen: str, **extra: str) -> int:
    """Run the image's health check as the container would, and give its exit code."""
    kind, command = last(DAEMON, "HEALTHCHECK").split(" CMD ")
    assert "--interval" in kind
    program, *arguments = json.loads(command)
    assert program == "python"
    env = {"REPLICATOR_HTTP_LISTEN": listen, "PATH": os.environ["PATH"], **extra}
    return subprocess.run(
        [sys.executable, *arguments], check=False, capture_output=True, env=env, timeout=30
    ).returncode


def test_the_health_check_passes_only_while_the_daemon_is_healthy(
    listening: HttpServer, health: list[str | None]
) -> None:
    assert health_check(listening.address) == 0
    assert health_check(listening.address, http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9") == 0
    health.append("The slot is lost.")
    assert health_check(listening.address) == 1
    health.append(None)
    assert health_check(listening.address) == 0
    listening.stop()
    assert health_check("0.0.0.0:1") == 1


# --- the compose file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_names_only_what_is_there(name: str) -> None:
    service = SERVICES[name]
    if build := service.get("build"):
        context = ROOT / build["context"]
        assert (context / build.get("dockerfile", "Dockerfile")).is_file()
    for source in mounts(service).values():
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    assert set(service.get("depends_on", [])) <= SERVICES.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_from_elsewhere_is_of_one_version(name: str) -> None:
    service = SERVICES[name]
    assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_host_only(name: str) -> None:
    assert [port for port in SERVICES[name].get("ports", []) if not port.startswith("127.0.0.1:")] == []


def test_what_is_waited_for_to_be_healthy_says_whether_it_is() -> None:
    for name, service in SERVICES.items():
        depends = service.get("depends_on", {})
        for other in depends if isinstance(depends, dict) else ():
            assert depends[other]["condition"] == "service_healthy", name
            assert "healthcheck" in SERVICES[other], f"{name} waits for {other}"


def test_what_is_no_daemon_does_not_inherit_the_daemons_health_check() -> None:
    assert OURS.keys() == {"replicator", "writers"}
    for name, service in OURS.items():
        assert ("entrypoint" in service) == ("healthcheck" in service) == (name != "replicator")


def test_the_daemon_is_given_only_settings_that_exist() -> None:
    given = {name for service in OURS.values() for name in service["environment"] if name.startswith("REPLICATOR_")}
    assert given == {"REPLICATOR_SOURCE_DSN", "REPLICATOR_HTTP_HOSTS"}
    assert given <= SETTINGS


@pytest.mark.parametrize("name, role", [("replicator", "replicator"), ("writers", "app")])
def test_a_service_logs_in_as_a_role_that_the_init_scripts_create(name: str, role: str) -> None:
    service, postgres = SERVICES[name], SERVICES["postgres"]["environment"]
    dsn = dict(word.split("=") for word in re.findall(r"\w+=\w+", f"{service['environment']} {service.get('command')}"))
    assert dsn["host"] in SERVICES
    assert (dsn["user"], dsn["dbname"]) == (role, postgres["POSTGRES_DB"])
    assert service["environment"]["PGPASSWORD"] == postgres[f"{role.upper()}_PASSWORD"]
    assert f"CREATE ROLE {role} LOGIN" in (DEPLOY / "postgres" / "initdb" / "10-roles.sql").read_text()


def test_the_init_scripts_are_given_what_they_ask_for() -> None:
    scripts = "".join(path.read_text() for path in (DEPLOY / "postgres" / "initdb").iterdir())
    asked = set(re.findall(r"^\\getenv \w+ (\w+)$", scripts, re.MULTILINE))
    assert asked == SERVICES["postgres"]["environment"].keys() - {"POSTGRES_PASSWORD", "POSTGRES_DB"}


def test_the_writers_are_started_with_options_that_they_have() -> None:
    python, *command = SERVICES["writers"]["entrypoint"]
    assert python == "python"
    options = [word for word in SERVICES["writers"]["command"] if word.startswith("--")]
    done = subprocess.run(
        [sys.executable, *command, "--help"], check=False, capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [option for option in options if option not in done.stdout] == []


def test_prometheus_scrapes_the_daemon_where_it_listens() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    [target] = config["scrape_configs"][0]["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in OURS
    assert port == last(DAEMON, "EXPOSE") == environment(DAEMON)["REPLICATOR_HTTP_LISTEN"].split(":")[1]
    assert plain(SERVICES["replicator"]["ports"][0]).endswith(f":{port}")
    [option] = [word for word in SERVICES["prometheus"]["command"] if "config.file" in word]
    folder, file = option.split("=")[1].rsplit("/", 1)
    assert (ROOT / mounts(SERVICES["prometheus"])[folder] / file).is_file()
    assert all((DEPLOY / "prometheus" / rules).is_file() for rules in config["rule_files"])


def test_grafana_finds_its_data_source_and_dashboard() -> None:
    mounted = mounts(SERVICES["grafana"])
    provisioning = ROOT / mounted["/etc/grafana/provisioning"]
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    host = re.fullmatch(r"http://(\w+):9090", source["url"])
    assert host
    assert host[1] in SERVICES
    [provider] = yaml.safe_load((provisioning / "dashboards" / "replicator.yml").read_text())["providers"]
    folder = ROOT / mounted[provider["options"]["path"]]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (folder / home.name).is_file()


# --- systemd ----------------------------------------------------------------------------------------------------------


def test_the_unit_starts_the_daemon_without_privileges() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "replicator.service")
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name in PYPROJECT["project"]["scripts"]
    assert arguments == json.loads(last(DAEMON, "CMD"))
    assert unit["Service"]["User"] not in ("", "root")
    assert unit["Service"]["CapabilityBoundingSet"] == ""
    hardened = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes"}
    assert {name: unit["Service"][name] for name in hardened} == hardened


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    binary = shutil.which("systemd-analyze")
    if binary is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / "replicator.service"
    text = (DEPLOY / "replicator.service").read_text()
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    done = subprocess.run([binary, "verify", unit], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
