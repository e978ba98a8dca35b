"""compose.yaml, without an engine: what it says is what the service needs, and nothing it may not have."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from typer.main import get_command

from memory_service.cli import app
from memory_service.config import Settings
from tests.conftest import REPOSITORY
from tests.docker.context import of

FILE = REPOSITORY / "docker" / "compose.yaml"
README = FILE.with_name("README.md").read_text()
# Those of the Compose specification that are used here; another one is a slip, or belongs here.
SERVICE_KEYS = {
    "build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "ports", "read_only", "restart",
    "security_opt", "shm_size", "stop_grace_period", "tmpfs", "volumes",
}  # fmt: skip
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period", "disable"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """As YAML with its merge keys resolved."""
    parsed: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return parsed


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def test_structure(compose: dict[str, Any], services: dict[str, Any]) -> None:
    assert {key for key in compose if not key.startswith("x-")} == {"name", "services", "volumes"}
    assert services.keys() == {"database", "migrate", "service"}
    for name, service in services.items():
        assert service.keys() <= SERVICE_KEYS, name
        assert service.get("healthcheck", {}).keys() <= HEALTH_KEYS
        for depended, condition in service.get("depends_on", {}).items():
            assert depended in services
            assert condition["condition"] in ("service_healthy", "service_completed_successfully")
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in compose["volumes"]
        for text in map(str, service["environment"].values()):
            assert not re.search(r"\$(?!\{[A-Z_]+(:[-?][^}]*)?\})", text)


def test_what_waits_for_what(services: dict[str, Any]) -> None:
    assert services["database"]["healthcheck"]["test"][0] == "CMD"
    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["migrate"]["restart"] == "no"
    assert services["service"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert services["database"]["image"].startswith("pgvector/pgvector:pg")
    assert int(services["database"]["image"].rpartition("pg")[2]) >= 17


@pytest.mark.parametrize("name", ["migrate", "service"])
def test_what_they_may(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "volumes" not in service
    assert (FILE.parent / service["build"]["context"]).resolve() == REPOSITORY
    assert (REPOSITORY / service["build"]["dockerfile"]).exists()


def test_settings_and_commands_exist(services: dict[str, Any]) -> None:
    settings = {f"MEMORY_{name.upper()}" for name in Settings.model_fields}
    for name in ("migrate", "service"):
        assert services[name]["environment"].keys() <= settings
        assert "@database:5432/memory" in services[name]["environment"]["MEMORY_DATABASE_URL"]
    database = services["database"]["environment"]
    assert (database["POSTGRES_USER"], database["POSTGRES_DB"]) == ("memory", "memory")
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert set(services["migrate"]["command"]) <= commands.keys()
    named = set(
        re.findall(r"memory-service (\w+)", " ".join(re.findall(r"exec .*?service (memory-service \w+)", README)))
    )
    assert {"keys", "doctor", "export", "import"} <= named <= commands.keys()


def test_only_this_machine_reaches_it(services: dict[str, Any]) -> None:
    assert "ports" not in services["database"]
    (port,) = services["service"]["ports"]
    assert port.startswith("127.0.0.1:")
    assert port.endswith(f":{of('EXPOSE')[0]}")
    assert f"MEMORY_PORT={of('EXPOSE')[0]}" in " ".join(of("ENV"))


def test_the_real_compose_takes_it() -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("`docker compose` is not installed")
    command = [docker, "compose", "-f", str(FILE), "config", "--quiet"]
    ran = subprocess.run(command, env={**os.environ, "POSTGRES_PASSWORD": "x"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    without = {name: value for name, value in os.environ.items() if name != "POSTGRES_PASSWORD"}
    assert subprocess.run(command, env=without, capture_output=True).returncode != 0, "there is no default password"
