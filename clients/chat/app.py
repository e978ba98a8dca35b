"""A chat backend to copy: memory-service keeps the threads and calls the model; this signs people in and passes replies on.

    pip install fastapi uvicorn ../python
    uvicorn app:app --port 8000

A reply is a run of memory-service, and belongs to it: whoever closes the page, or restarts this backend, loses nothing, and
finds the run again by the thread's `active_run_id`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from accounts import COOKIE, LASTS_SECONDS, Accounts
from fastapi import Cookie, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from memory_client import (
    APIConnectionError,
    APIStatusError,
    AsyncMemoryClient,
    AsyncRunStream,
    MemoryClientError,
    MessageDelta,
    NotFoundError,
    Run,
    RunCreated,
    RunEvent,
    RunStopped,
    RunUsage,
    Thread,
)
from pydantic import BaseModel, Field, StringConstraints

MODEL = os.environ.get("CHAT_MODEL", "claude-sonnet-5-5")
PROVIDER = os.environ.get("CHAT_PROVIDER") or None
MAX_PROMPT_TOKENS = int(os.environ.get("CHAT_MAX_PROMPT_TOKENS", "32000"))
MAX_OUTPUT_TOKENS = int(os.environ.get("CHAT_MAX_OUTPUT_TOKENS", "2048"))
DATA_DIR = Path(os.environ.get("CHAT_DATA_DIR", "~/.memory-chat")).expanduser()
INSTRUCTIONS = "You are a helpful assistant. Answer briefly, in the user's language."
HERE = Path(__file__).parent
# The page loads, sends and runs nothing but what is its own, whatever a model writes; and is never an old one.
PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
WORDS = {
    "thread_busy": "A reply is still being written here. Wait for it, or stop it.",
    "no_user_message": "There is nothing to answer. Write a message.",
    "prompt_too_large": "This message is too long for the model.",
    "provider_unreachable": "The model cannot be reached. Try again in a moment.",
    "provider_timeout": "The model fell silent. Try again in a moment.",
    "provider_rate_limited": "The model has too much to do. Try again in a moment.",
    "provider_overloaded": "The model has too much to do. Try again in a moment.",
    "provider_failed": "The model had a problem. Try again in a moment.",
    "provider_stream_broken": "The reply broke off.",
    "provider_refused": "The model did not take this conversation.",
    "provider_request_too_large": "This conversation is too long for the model.",
    "provider_unauthorized": "The model does not accept the key of this service. Its operator has to look into it.",
    "provider_model_unknown": f"There is no model {MODEL}. The operator of this service has to look into it.",
    "run_timeout": "The reply took too long.",
    "server_stopping": "The service was restarted in the middle of the reply.",
    "server_lost": "The service was restarted in the middle of the reply.",
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncMemoryClient() as memory:
        app.state.memory, app.state.accounts = memory, Accounts(DATA_DIR)
        yield


app = FastAPI(title="Chat", lifespan=lifespan)


class SignIn(BaseModel):
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    passphrase: str = Field(min_length=8, max_length=200)
    new: bool = Field(default=False, description="Make this account, instead of signing in to it.")


class Message(BaseModel):
    text: str | None = Field(
        min_length=1, max_length=50_000, description="Null: answer once more, after a model failed."
    )


async def current_user(chat_session: Annotated[str | None, Cookie(alias=COOKIE)] = None) -> str:
    user: str | None = app.state.accounts.user_of(chat_session)
    if user is None:
        raise HTTPException(401, "Sign in first.")
    return user


User = Annotated[str, Depends(current_user)]


async def own_thread(thread_id: str, user: User) -> Thread:
    """A thread of the user's; anybody else's does not exist."""
    try:
        thread: Thread | None = await app.state.memory.threads.get(thread_id)
    except NotFoundError:
        thread = None
    if thread is None or thread.user_id != user:
        raise HTTPException(404, "There is no such conversation.")
    return thread


OwnThread = Annotated[Thread, Depends(own_thread)]


@app.exception_handler(MemoryClientError)
async def in_words(_: Request, error: MemoryClientError) -> Response:
    status = error.status_code if isinstance(error, APIStatusError) and error.status_code in (404, 409, 422) else 502
    return JSONResponse({"detail": words_for(error)}, status)


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(HERE / "page.html", headers=PAGE_HEADERS)


@app.get("/page.{kind}")
async def part_of_page(kind: str) -> FileResponse:
    if kind not in ("js", "css"):
        raise HTTPException(404, "There is no such file.")
    return FileResponse(HERE / f"page.{kind}", headers=PAGE_HEADERS)


@app.post("/api/session", status_code=204)
async def sign_in(request: Request, response: Response, body: SignIn) -> None:
    accounts: Accounts = app.state.accounts
    # In a thread: hashing a passphrase is slow on purpose.
    user = await asyncio.to_thread(accounts.create if body.new else accounts.check, body.name, body.passphrase)
    if user is None and body.new:
        raise HTTPException(409, "This name is taken.")
    if user is None:
        raise HTTPException(401, "There is no account with this name and passphrase.")
    response.set_cookie(
        COOKIE,
        accounts.cookie_for(user),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        max_age=LASTS_SECONDS,
    )


@app.delete("/api/session", status_code=204)
async def sign_out(response: Response) -> None:
    response.delete_cookie(COOKIE)


@app.get("/api/session")
async def who(user: User) -> dict[str, Any]:
    return {"name": app.state.accounts.name_of(user), "model": MODEL}


@app.post("/api/threads", status_code=201)
async def create_thread(user: User, message: Message) -> dict[str, str]:
    """A thread, named by what will be said first."""
    title = " ".join((message.text or "").split())[:60] or "New conversation"
    thread = await app.state.memory.threads.create(user_id=user, instructions=INSTRUCTIONS, metadata={"title": title})
    return {"id": thread.id, "title": title}


@app.get("/api/threads")
async def list_threads(user: User) -> list[dict[str, Any]]:
    threads = await app.state.memory.threads.list(user_id=user, limit=100)
    return [{"id": t.id, "title": t.metadata.get("title", "Conversation")} for t in threads.data]


@app.delete("/api/threads/{thread_id}", status_code=204)
async def delete_thread(thread: OwnThread) -> None:
    await app.state.memory.threads.delete(thread.id)


@app.get("/api/threads/{thread_id}")
async def read_thread(thread: OwnThread) -> dict[str, Any]:
    """What was said, newest last, and what each reply cost; `active_run`: whose events go on."""
    threads = app.state.memory.threads
    newest, runs = await asyncio.gather(
        threads.messages.list(thread.id, order="desc", limit=100), threads.runs.list(thread.id, limit=100)
    )
    ended = {run.message_ids[-1]: ending(run) for run in runs.data if run.message_ids}
    shown = [
        {"role": m.role, "text": text_of(m.content), "ending": ended.get(m.id) if m.role == "assistant" else None}
        for m in reversed(newest.data)
    ]
    return {"messages": [m for m in shown if m["text"]], "active_run": thread.active_run_id}


@app.post("/api/threads/{thread_id}/messages")
async def send(thread: OwnThread, message: Message) -> StreamingResponse:
    """Answer as server-sent events; see `told`."""
    stream = app.state.memory.threads.runs.stream(
        thread.id,
        message.text,
        model=MODEL,
        provider=PROVIDER,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        max_output_tokens=MAX_OUTPUT_TOKENS,
    )
    return await streamed(stream)


@app.get("/api/threads/{thread_id}/runs/{run_id}")
async def follow(thread: OwnThread, run_id: str, after: int | None = None) -> StreamingResponse:
    """The same for a run that was started before, behind event `after`, or from its first on."""
    return await streamed(app.state.memory.threads.runs.resume(thread.id, run_id, after=after))


@app.post("/api/threads/{thread_id}/runs/{run_id}/cancel", status_code=202)
async def cancel(thread: OwnThread, run_id: str) -> None:
    await app.state.memory.threads.runs.cancel(thread.id, run_id)


async def streamed(stream: AsyncRunStream) -> StreamingResponse:
    """Once the first event is there, so that what is refused is answered with a status."""
    try:
        first = await anext(aiter(stream))
    except BaseException:
        await stream.close()
        raise
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(server_sent(stream, first), headers=headers, media_type="text/event-stream")


async def server_sent(stream: AsyncRunStream, first: RunEvent) -> AsyncIterator[str]:
    """A reader who leaves closes this and the stream, not the run."""
    async with stream:
        yield _sent(first.seq, told(first))
        try:
            async for event in stream:
                yield _sent(event.seq, told(event))
        except MemoryClientError as error:
            yield _sent(None, {"type": "lost", "message": words_for(error)})


def _sent(seq: int | None, data: dict[str, Any] | None) -> str:
    return f"data: {json.dumps({'seq': seq, **data})}\n\n" if data else ": \n\n"


def told(event: RunEvent) -> dict[str, Any] | None:
    """What the page hears: `started`, pieces of `text`, at last `ended` with the cost; `lost` if that is not known."""
    match event:
        case RunCreated():
            return {"type": "started", "run": event.run.id}
        case MessageDelta(type="text"):
            return {"type": "text", "text": event.text}
        case RunStopped():
            return {"type": "ended", "ending": ending(event.run)}
    return None


def ending(run: Run) -> dict[str, Any]:
    return {"status": run.status, "problem": problem(run), "cost": cost(run.usage)}


def problem(run: Run) -> str | None:
    match run.status:
        case "failed":
            return WORDS.get(run.last_error.code, run.last_error.message) if run.last_error else "The reply failed."
        case "cancelled" | "cancelling":
            return "Stopped."
        case "expired" | "requires_action":
            return "The model called a tool, and there is none."
        case "incomplete":
            return f"The reply was cut ({(run.incomplete_reason or 'unknown').replace('_', ' ')})."
    return None


def cost(usage: RunUsage) -> dict[str, Any] | None:
    if not usage.calls:
        return None
    return {
        "usd": usage.cost_usd,
        "saved_usd": usage.saved_usd,
        "prompt_tokens": usage.prompt_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }


def words_for(error: MemoryClientError) -> str:
    if isinstance(error, APIConnectionError):
        return "The conversations cannot be reached. Try again in a moment."
    code = getattr(error, "code", None)
    return WORDS.get(code or "", getattr(error, "message", None) or "Something went wrong.")


def text_of(content: list[dict[str, Any]]) -> str:
    return "\n".join(block["text"] for block in content if block.get("type") == "text")
