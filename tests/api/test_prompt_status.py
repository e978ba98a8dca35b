"""A prompt is built, then sent, or abandoned when a later one of its lane was sent instead."""

from __future__ import annotations

import httpx2

USAGE = {"usage": {"input_tokens": 20, "output_tokens": 3}}


def _build(api: httpx2.Client, thread_id: str, **body: object) -> str:
    answer = api.post(f"/v1/threads/{thread_id}/prompts", json={"model": "claude-sonnet-5-5", **body})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def _status(api: httpx2.Client, thread_id: str, prompt_id: str) -> str:
    return str(api.get(f"/v1/threads/{thread_id}/prompts/{prompt_id}").json()["status"])


def test_a_prompt_that_was_never_sent_is_abandoned_by_the_next_one_that_was(api: httpx2.Client) -> None:
    thread_id = api.post("/v1/threads", json={"messages": [{"role": "user", "content": "hi"}]}).json()["id"]
    first, other_lane = _build(api, thread_id), _build(api, thread_id, max_prompt_tokens=9_000)
    second, third = _build(api, thread_id), _build(api, thread_id)
    assert api.post(f"/v1/threads/{thread_id}/prompts/{second}/usage", json=USAGE).status_code == 200
    assert [_status(api, thread_id, p) for p in (first, second, third)] == ["abandoned", "sent", "built"]
    assert _status(api, thread_id, other_lane) == "built"
    # The report may only have been late.
    assert api.post(f"/v1/threads/{thread_id}/prompts/{first}/usage", json=USAGE).status_code == 200
    assert _status(api, thread_id, first) == "sent"
