"""OpenAI's own tests, as they lie in the source distribution of its SDK: downloaded once, kept in the environment."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

_CACHE = Path(sys.prefix) / "cache" / "openai-sdist"
_SHA256 = {
    "1.109.1": "d173ed8dbca665892a6db099b4a2dfac624f94d20a93f46eb0b56aae940ed869",
    "2.54.0": "e3e6f8bc1ba30ddf381ace1a14340eed381cb984a1a59bd0f34b5be3b5d49cfa",
    "3.52.0": "258a4fec3e40b412c58672526ed33f20738c2e4ea27601792e73843af62466af",
}


def unpack(version: str, directory: Path) -> Path:
    """The source distribution's directory. Skips, saying so, where there is none and none can be had."""
    archive = _archive(version)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != _SHA256[version]:
        archive.unlink()
        pytest.fail(f"the sdist of openai {version} is not the one that is expected; it was removed")
    with tarfile.open(archive) as opened:
        opened.extractall(directory, filter="data")
    return directory / f"openai-{version}"


def install(version: str, directory: Path) -> Path:
    """An SDK that is not the environment's, with what its tests need. Skips, saying so, where it cannot be had."""
    wanted = [f"openai[aiohttp]=={version}", "respx", "pytest-asyncio"]
    options = ["--quiet", "--disable-pip-version-check", "--target", str(directory)]
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, *wanted], capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(f"NOT TESTED: the suite of openai {version}, which cannot be installed:\n{installed.stderr[-500:]}")
    return directory


def _archive(version: str) -> Path:
    archive = _CACHE / f"openai-{version}.tar.gz"
    if not archive.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        options = ["--no-deps", "--no-binary", ":all:", "--quiet", "--disable-pip-version-check", "-d", str(_CACHE)]
        fetched = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, f"openai=={version}"], capture_output=True, text=True
        )
        if fetched.returncode or not archive.exists():
            reason = (
                f"NOT TESTED: OpenAI's own suite; the sdist of openai {version} could not be downloaded to {_CACHE}"
            )
            pytest.skip(f"{reason}:\n{fetched.stderr[-500:]}")
    return archive
