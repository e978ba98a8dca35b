"""The cases of OpenAI's suite that do not pass, with the reason: they send what OpenAI's own documentation forbids, or ask
for what is not there. Its mock server takes everything; a server that did would hide mistakes of its callers.

Each name stands for the five cases of its function: sync with two clients, async with three.
"""

from __future__ import annotations

_NO_MODEL = "it sends no `model`: there is nothing that could be asked"
_TWO_PASTS = "it sends both `conversation` and `previous_response_id`, of which only one may be given"
_NO_COMPACTION = "compaction on demand is not implemented, and refused by name"
_HOSTED = "its tools are `code_interpreter`, which is not executed, and refused by name"
_FORMS = ("method", "raw_response", "streaming_response")

CONFLICTS = {
    **{
        f"test_responses.py::test_{form}_create_overload_{overload}": _NO_MODEL
        for form in _FORMS
        for overload in (1, 2)
    },
    **{f"test_responses.py::test_method_create_with_all_params_overload_{overload}": _TWO_PASTS for overload in (1, 2)},
    "responses/test_input_tokens.py::test_method_count_with_all_params": _TWO_PASTS,
    **{
        f"beta/{file}_with_all_params_overload_{overload}": _HOSTED
        for file in ("test_threads.py::test_method_create_and_run", "threads/test_runs.py::test_method_create")
        for overload in (1, 2)
    },
    **{f"test_responses.py::test_{form}_compact": _NO_COMPACTION for form in _FORMS},
    "test_responses.py::test_method_compact_with_all_params": _NO_COMPACTION,
}
