"""The same behaviour with the last SDK 1.x, which most code that was left behind was written against."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

VERSION = "1.109.1"
#: The SDK and what of its needs is not here anyway.
WANTED = [f"openai=={VERSION}", "httpx", "httpcore", "jiter", "distro", "tqdm", "sniffio"]
#: Tests of methods that it does not have, and of a package that needs a newer one.
NEWER = (
    "test_compaction_is_refused",
    "test_input_tokens",
    "test_nobody_else_sees_it",
    "test_sessions_of_the_agents_sdk",
)
RUN = "import sys; sys.path.insert(0, sys.argv[1]); import pytest; sys.exit(pytest.main(sys.argv[2:]))"


@pytest.mark.slow
def test_with_the_last_1_x(tmp_path: Path) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(tmp_path)]
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, *WANTED], capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(f"NOT TESTED: openai {VERSION} cannot be installed:\n{installed.stderr[-500:]}")
    unwanted = " and ".join(f"not {name}" for name in NEWER)
    arguments = ["-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", unwanted, "tests/openai_edge"]
    # A worker of xdist tells its children that they are one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path), *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-2_000:]
