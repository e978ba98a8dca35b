import httpx2


def test_path(api: httpx2.Client) -> None:
    thread = api.post("/v1/threads", json={}).json()
    assert api.post(f"/v1/threads/{thread['id']}/messages", json={"role": "user", "content": "hi"}).status_code == 201
    assert api.post(f"/v1/threads/{thread['id']}/prompts", json={"model": "claude-sonnet-5"}).status_code == 201
