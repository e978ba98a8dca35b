"""All routes at `/openai/v1`."""

from __future__ import annotations

from memory_service.api.openai import assistants, conversations, messages, responses, runs, steps, threads

# `/threads/runs` is no thread, so it is looked at first.
openai_routers = tuple(
    module.router for module in (runs, threads, messages, steps, assistants, conversations, responses)
)
