"""The bytes of a prompt never change by accident: whoever sent a prefix yesterday must find it in the cache today.

A thread in which a prompt does not extend the one before says so: `moves_prefix(reason=…)`.
"""

from __future__ import annotations

import pytest

from tests.prompt_stability.golden import DIRECTORY, REWRITE, moves, path_of, render
from tests.prompt_stability.threads import THREADS

moves_prefix = pytest.mark.moves_prefix
REASONS = {
    "tool_loop": "turn_closed",
    "openai_explicit": "turn_closed",
    "openai_automatic": "turn_closed",
    "recall": "trimmed",
    "korean": "trimmed",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[moves_prefix(reason=REASONS[name])] if name in REASONS else []) for name in THREADS],
)
def test_a_golden_prompt_is_as_it_was(name: str, request: pytest.FixtureRequest) -> None:
    prompts = list(THREADS[name]())
    committed = path_of(name).read_text()
    for number, (line, built) in enumerate(zip(committed.splitlines(), prompts, strict=True), start=1):
        assert built.text == line, (
            f"Prompt {number} of {name!r} has other bytes than before, so nobody's cached prefix would be found again. "
            f"If that is meant: {REWRITE}"
        )
    assert render(prompts) == committed
    _check_moves(request, moves(prompts), [{b.reason for b in built.prompt.breaks} for built in prompts])


def _check_moves(request: pytest.FixtureRequest, moved: list[int], declared: list[set[str]]) -> None:
    marker = request.node.get_closest_marker("moves_prefix")
    if marker is None:
        assert not moved, f"prompts {moved} move the prefix; if that is meant, mark the test moves_prefix(reason=…)"
        return
    assert moved, "this test is marked moves_prefix, but nothing moves"
    assert all(marker.kwargs["reason"] in declared[number - 1] for number in moved)


def test_every_golden_file_has_a_thread() -> None:
    assert {path.stem for path in DIRECTORY.iterdir()} == set(THREADS)
