"""What README.md says is so: its commands run, its code runs, its tables are those of the code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_service.demo.engine import Engine
from tests.conftest import REPOSITORY, Service, ended
from tests.docs.settings import README, with_settings

TEXT = README.read_text()
BIN = Path(sys.executable).parent


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def _commands() -> list[str]:
    joined = "".join(_blocks("sh")).replace("\\\n", "")
    return [line.split("   #")[0].strip() for line in joined.splitlines() if line.strip()]


def _environment(home: Path) -> dict[str, str]:
    # Nor what the `make` that runs these tests was told.
    foreign = ("MEMORY_", "ANTHROPIC_", "MAKE", "MFLAGS", "ARGS", "WORKERS")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**clean, "HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def home(temporary_dir: Path) -> Path:
    path = temporary_dir / "home"
    path.mkdir(mode=0o755)
    return path


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[Service]:
    """`make run` as a newcomer would have it: no setting, a home of its own; only the port is another."""
    served = Service.start(env={"HOME": str(home)})
    yield served
    assert served.stop() in (0, -signal.SIGTERM)


def test_every_command_is_covered() -> None:
    makes = {command for command in _commands() if command.startswith("make ")}
    assert makes == {"make demo", "make run"}, "a new make target in README needs a test here"
    run = ("make ", "memory-service ", "json ", "json()", "id()", "KEY=", "API=", "THREAD=", "PROMPT=")
    rest = [c for c in _commands() if not c.startswith(run)]
    assert rest == [], "a new kind of command in README needs a test here"


def test_shell_commands_run(home: Path, running: Service) -> None:
    lines = [line for line in _commands() if not line.startswith("make ")]
    script = "set -eu\n" + "\n".join(lines).replace("curl -s ", "curl -sf ").replace(
        "http://127.0.0.1:8080", running.url
    )
    # On the usual port another service may run, of which `doctor` would tell.
    env = {**_environment(home), "MEMORY_PORT": running.url.rpartition(":")[2]}
    ran = subprocess.run(["bash", "-c", script], cwd=home, env=env, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert '"user_id":"mina"' in ran.stdout
    assert '"text":"Noted."' in ran.stdout
    assert "Usage: memory-service" in ran.stdout
    assert "msk_" in ran.stdout
    assert "migrated" in ran.stdout


def test_python_examples_run(running: Service, home: Path) -> None:
    if not Engine.available():
        pytest.skip("xllamacpp is not installed; `make engine` installs it where a wheel exists")
    examples = _blocks("python")
    assert all(len([line for line in example.splitlines() if line.strip()]) <= 15 for example in examples)
    with Engine() as engine:
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", "\n".join(examples)],
            env={
                **_environment(home),
                "MEMORY_BASE_URL": running.url,
                "ANTHROPIC_BASE_URL": engine.base_url,
                "ANTHROPIC_API_KEY": "unused",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ran.returncode == 0, ran.stderr
    chatted, *built = ran.stdout.splitlines()
    assert "My flight to Seoul" in chatted
    assert len(built) == 3


def test_make_run_serves(temporary_dir: Path) -> None:
    process = subprocess.Popen(
        ["make", "run", f"ARGS=--port 0 --data-dir {temporary_dir / 'make-run'}"],
        cwd=REPOSITORY,
        env=_environment(temporary_dir),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    with process.stdout:
        greeting = next((line for line in process.stdout if " on http" in line), "")
        os.killpg(process.pid, signal.SIGINT)
        process.stdout.read()
    ended(process, 30)
    assert greeting.startswith("memory-service ")


def test_make_demo_shows_what_the_product_is_for(temporary_dir: Path) -> None:
    ran = subprocess.run(
        ["make", "demo"], cwd=REPOSITORY, env=_environment(temporary_dir), capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Next: `make run`" in ran.stdout
    rows = {name.strip(): value.strip() for name, value in re.findall(r"│([^│]+)│([^│]+)│\n", ran.stdout)}
    assert rows["prompts over budget"] == "0"
    found, expected = rows["old facts asked for that were in the prompt"].split(" of ")
    assert int(found) >= 0.7 * int(expected) > 0
    assert re.search(r"│[^│]*[가-힣]", ran.stdout), "nothing Korean was brought back"
    if Engine.available():
        assert int(rows["times the window moved"]) > 2
        (share,) = re.findall(r"\((\d+\.\d)%\)", ran.stdout)
        assert float(share) > 75, "of the prompts' tokens came from the prompt cache"


def test_make_demo_says_nothing_of_its_own(temporary_dir: Path) -> None:
    """Standard output is the demo's, so that `make demo ARGS=--json` can be piped."""
    ran = subprocess.run(
        ["make", "--no-print-directory", "demo", "ARGS=--help"],
        cwd=REPOSITORY, env=_environment(temporary_dir), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[:3] == ["Usage:", "memory-service", "demo"]


def test_settings_table_is_the_class() -> None:
    assert with_settings(TEXT) == TEXT, textwrap.fill("README is behind; run `python -m tests.docs.settings`")


def test_paths_named_exist() -> None:
    named = set(re.findall(r"`((?:memory_service|clients|tests|docs|bench|requirements)/[\w./-]*)`", TEXT))
    assert named
    assert [path for path in sorted(named) if not (REPOSITORY / path).exists()] == []
