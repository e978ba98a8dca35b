"""What a builder would see: the Dockerfile's instructions, and the files that .dockerignore lets through."""

from __future__ import annotations

import json
import shlex
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from tests.conftest import REPOSITORY

DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(name, the rest), with continued lines joined and comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def of(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def command(text: str) -> list[str]:
    """The words of an instruction in the exec form."""
    words: list[str] = json.loads(text[text.index("[") :])
    return words


def copied() -> list[str]:
    """What is copied from the checkout."""
    return [source for rest in of("COPY") if "--from" not in rest for source in shlex.split(rest)[:-1]]


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.split("\0") if path and (REPOSITORY / path).exists()]


def sent(path: str) -> bool:
    """Whether .dockerignore lets a file through: the last line that matches it, or a directory it is in, decides."""
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    names = [path, *map(str, PurePosixPath(path).parents)]
    verdict = True
    for line in lines:
        pattern = line.removeprefix("!")
        if any(fnmatchcase(name, pattern) or fnmatchcase("/" + name, pattern.replace("**/", "*/")) for name in names):
            verdict = line.startswith("!")
    return verdict


def write_context(directory: Path) -> None:
    """The files that the Dockerfile copies, as it would get them."""
    for path in tracked():
        if sent(path):
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes((REPOSITORY / path).read_bytes())
