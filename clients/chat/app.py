"""A chat backend to copy: memory-service keeps the threads and builds the prompts, Anthropic's SDK calls the model.

    pip install fastapi uvicorn anthropic ../python
    MEMORY_BASE_URL=http://127.0.0.1:8080 MEMORY_API_KEY=msk_… ANTHROPIC_API_KEY=… uvicorn app:app --port 8000

A turn is four steps: append the user's message and build the prompt (one request), call the model with it, pass the text on
as it comes, report the usage with the reply.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from anthropic import AnthropicError, AsyncAnthropic
from fastapi import Cookie, Depends, FastAPI, HTTPException, Response
from fastapi.responses import FileResponse, StreamingResponse
from memory_client import AsyncMemoryClient, MemoryClientError, NotFoundError, Thread
from pydantic import BaseModel, Field

MODEL = os.environ.get("CHAT_MODEL", "claude-sonnet-5-5")
MAX_PROMPT_TOKENS = int(os.environ.get("CHAT_MAX_PROMPT_TOKENS", "32000"))
MAX_OUTPUT_TOKENS = int(os.environ.get("CHAT_MAX_OUTPUT_TOKENS", "2048"))
INSTRUCTIONS = "You are a helpful assistant. Answer briefly, in the user's language."
PAGE = Path(__file__).with_name("page.html")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncMemoryClient() as memory, AsyncAnthropic() as model:
        app.state.memory, app.state.model, app.state.turns = memory, model, set()
        yield
        await asyncio.gather(*app.state.turns, return_exceptions=True)  # replies under way are still stored


app = FastAPI(title="Chat", lifespan=lifespan)


class Message(BaseModel):
    """`text` is None to answer once more, after a model failed."""

    text: str | None = Field(min_length=1, max_length=50_000)


async def current_user(response: Response, chat_user: Annotated[str | None, Cookie()] = None) -> str:
    """Who is there: a random cookie. Put your own sign-in here."""
    if chat_user is None:
        chat_user = secrets.token_urlsafe(24)
        response.set_cookie("chat_user", chat_user, httponly=True, samesite="strict", max_age=365 * 86_400)
    return chat_user


User = Annotated[str, Depends(current_user)]


async def own_thread(thread_id: str, user: User) -> Thread:
    """A thread of the user's; anybody else's does not exist."""
    try:
        thread = await app.state.memory.threads.get(thread_id)
    except NotFoundError:
        thread = None
    if thread is None or thread.user_id != user:
        raise HTTPException(404, "There is no such conversation.")
    return thread


OwnThread = Annotated[Thread, Depends(own_thread)]


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE)


@app.post("/api/threads", status_code=201)
async def create_thread(user: User) -> dict[str, str]:
    thread = await app.state.memory.threads.create(user_id=user, instructions=INSTRUCTIONS)
    return {"id": thread.id}


@app.get("/api/threads")
async def list_threads(user: User) -> list[dict[str, Any]]:
    threads = await app.state.memory.threads.list(user_id=user, limit=50)
    return [{"id": t.id, "created_at": t.created_at, "messages": t.message_count} for t in threads.data]


@app.get("/api/threads/{thread_id}/messages")
async def list_messages(thread: OwnThread) -> list[dict[str, str]]:
    newest = await app.state.memory.threads.messages.list(thread.id, order="desc", limit=100)
    return [{"role": m.role, "text": text_of(m.content)} for m in reversed(newest.data)]


@app.post("/api/threads/{thread_id}/messages")
async def send(thread: OwnThread, message: Message) -> StreamingResponse:
    """Answer as server-sent events: `text` pieces, then `done` with what the turn cost, or `error`."""
    events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    # A task of its own: a reader who leaves does not end the turn, so no reply that was paid for is lost.
    turn = asyncio.create_task(take_turn(thread.id, message.text, events))
    app.state.turns.add(turn)
    turn.add_done_callback(app.state.turns.discard)
    return StreamingResponse(server_sent(events), media_type="text/event-stream")


async def take_turn(thread_id: str, text: str | None, events: asyncio.Queue[dict[str, Any] | None]) -> None:
    prompts = app.state.memory.threads.prompts
    try:
        prompt = await prompts.build(
            thread_id,
            model=MODEL,
            provider="anthropic",
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            max_output_tokens=MAX_OUTPUT_TOKENS,
            message=text,
        )
        async with app.state.model.messages.stream(**prompt.request) as stream:
            async for piece in stream.text_stream:
                events.put_nowait({"type": "text", "text": piece})
            reply = await stream.get_final_message()
        await prompts.report_usage(thread_id, prompt.id, usage=reply.usage, message=reply)
        read = reply.usage.cache_read_input_tokens or 0
        total = read + reply.usage.input_tokens + (reply.usage.cache_creation_input_tokens or 0)
        cost = {"prompt_tokens": total, "read_from_cache": read, "recalled": len(prompt.recalled)}
        events.put_nowait({"type": "done", **cost})
    except (AnthropicError, MemoryClientError) as error:
        events.put_nowait({"type": "error", "message": f"{type(error).__name__}: {error}"})
    finally:
        events.put_nowait(None)


async def server_sent(events: asyncio.Queue[dict[str, Any] | None]) -> AsyncIterator[str]:
    while (event := await events.get()) is not None:
        yield f"data: {json.dumps(event)}\n\n"


def text_of(content: list[dict[str, Any]]) -> str:
    return "\n".join(block["text"] for block in content if block.get("type") == "text")
