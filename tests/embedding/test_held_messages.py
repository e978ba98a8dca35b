"""Messages that are held between two prompts are never seen: a prompt is what it is when everything is read anew."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from sys import getsizeof
from typing import Any

import pytest

from memory_service.core.canonical import dumps, loads
from memory_service.core.held import HeldMessages, HeldQuotables, size_of
from memory_service.core.plan import RecallSpec
from memory_service.core.quoting import Quotable
from memory_service.core.truncation import TruncationStrategy
from memory_service.errors import PromptTooLarge
from memory_service.runtime import HeldThreads, Runtime
from memory_service.services import holding, ingest, prompts, threads
from memory_service.services.holding import follow, quotable, read_newest, to_messages
from memory_service.services.ingest import Draft
from memory_service.services.planning import PromptSpec
from memory_service.store import messages as message_store
from memory_service.store.threads import ThreadRecord, get_thread
from tests.embedding.conftest import NOW, Home
from tests.embedding.hashing import HashingEmbedder
from tests.embedding.test_held import sent  # noqa: F401 - a fixture
from tests.embedding.test_queue import TEXTS, delete, edit

SPECS = [
    PromptSpec(model="claude-sonnet-5", max_prompt_tokens=300),
    PromptSpec(model="claude-sonnet-5", max_prompt_tokens=900),
    PromptSpec(model="claude-sonnet-5", max_prompt_tokens=300, recall=RecallSpec(max_tokens=120)),
    PromptSpec(model="gpt-4o", max_prompt_tokens=900, strategy=TruncationStrategy("last_messages", 7)),
    PromptSpec(model="claude-sonnet-5", max_prompt_tokens=20_000, strategy=TruncationStrategy("disabled")),
]


class Writers:
    """Two replicas that write one thread, and a fork of it now and then, as a seed says."""

    def __init__(self, home: Home, runtimes: Sequence[Runtime], seed: int) -> None:
        self.home, self.runtimes, self.random = home, runtimes, random.Random(seed)
        self.thread: ThreadRecord
        self.minutes = 0

    async def step(self) -> None:
        self.minutes += self.random.choice([1, 1, 1, 30])
        act = self.random.choices(
            [self.append, self.call, self.edit, self.delete, self.skip, self.fork, self.build], [6, 2, 1, 1, 1, 1, 4]
        )[0]
        await act(self.random.choice(self.runtimes))

    async def append(self, runtime: Runtime, count: int | None = None) -> None:
        for _ in range(count or self.random.choice([1, 2, 3, 3, 25])):
            await self.write(runtime, self.random.choice(["user", "assistant"]), self.random.choice(TEXTS))

    async def call(self, runtime: Runtime) -> None:
        """A tool, which answers most of the time."""
        id_ = f"call_{self.random.random()}"
        await self.write(runtime, "assistant", [{"type": "tool_use", "id": id_, "name": "look", "input": {"at": 1}}])
        if self.random.random() < 0.8:
            result = {"type": "tool_result", "tool_use_id": id_, "content": self.random.choice(TEXTS)}
            await self.write(runtime, "user", [result])

    async def write(self, runtime: Runtime, role: str, content: Any, skipped: int = 0) -> None:
        (new,) = await ingest.prepare(runtime, [Draft(role, content, "", {})], NOW)
        async with runtime.db.transaction(self.home.project_id) as session:
            thread = await get_thread(session, self.thread.id, lock=True)
            appended = await ingest.append(session, thread, [new], [""], [thread.last_seq + 1 + skipped])
            if self.random.random() < 0.5:  # as whoever appends here, or by an import
                follow(runtime, session, thread, appended)

    async def skip(self, runtime: Runtime) -> None:
        """As an import of a thread from which messages were deleted."""
        await self.write(runtime, "user", "Behind a gap.", skipped=3)

    async def edit(self, runtime: Runtime) -> None:
        await self.change(runtime, "edit")

    async def delete(self, runtime: Runtime) -> None:
        await self.change(runtime, "delete")

    async def change(self, runtime: Runtime, action: str) -> None:
        async with runtime.db.read_only(self.home.project_id) as session:
            records = await message_store.range_of(session, self.thread.pk)
        plain = [record.seq for record in records if "tool_" not in record.content and record.role == "user"]
        if plain and action == "edit":
            await edit(self.home, runtime, self.thread, self.random.choice(plain), f"Edited. {self.minutes}")
        elif plain:
            await delete(self.home, runtime, self.thread, self.random.choice(plain))

    async def fork(self, runtime: Runtime) -> None:
        async with runtime.db.transaction(self.home.project_id) as session:
            last = (await get_thread(session, self.thread.id)).last_seq
            seq = self.random.randint(last // 2, last)
            fork = await threads.fork(session, self.thread.id, seq, {}, None, NOW)
        if self.random.random() < 0.5:
            self.thread = fork

    async def build(self, runtime: Runtime) -> None:
        with suppress(PromptTooLarge):
            await self.prompt(runtime, self.random.choice(SPECS), dry_run=False)

    async def prompt(self, runtime: Runtime, spec: PromptSpec, *, dry_run: bool) -> Any:
        draft = Draft("user", f"Where is lantern {self.minutes}?", "message.", {})
        at = NOW + timedelta(minutes=self.minutes)
        return await prompts.build(
            runtime, self.home.project_id, self.thread.id, spec, draft, at, dry_run=dry_run, call=None
        )

    async def agree(self) -> None:
        """What is built with what is held is what is built without."""
        runtime, spec = self.random.choice(self.runtimes), self.random.choice(SPECS)
        held, anew = [await self.outcome(each, spec) for each in (runtime, replace(runtime, held=HeldThreads()))]
        assert held == anew

    async def outcome(self, runtime: Runtime, spec: PromptSpec) -> Any:
        try:
            built = await self.prompt(runtime, spec, dry_run=True)
        except PromptTooLarge as error:
            return error.message
        return dumps(built.request), built.explanation


@pytest.mark.parametrize(("seed", "held_bytes"), [(1, 16 << 20), (2, 20_000)])
def test_prompts_are_the_same_without(home: Home, monkeypatch: pytest.MonkeyPatch, seed: int, held_bytes: int) -> None:
    monkeypatch.setattr(holding, "_FIRST_PAGE", 8)
    monkeypatch.setattr(holding, "_MESSAGES_BYTES", held_bytes)
    monkeypatch.setattr(holding, "_QUOTABLE_BYTES", held_bytes)

    async def use(runtime: Runtime) -> None:
        other = home.runtime(HashingEmbedder(inline=True))
        writers = Writers(home, [runtime, other], seed)
        try:
            writers.thread = await home.write(runtime, *TEXTS[:4])
            for _ in range(30):
                await writers.step()
                await writers.agree()
        finally:
            await other.close()

    home.run(use, HashingEmbedder(inline=True))


async def newest(home: Home, runtime: Runtime, thread: ThreadRecord, count: int) -> list[int]:
    """The seqs of the newest messages, which are those that the database has."""
    async with runtime.db.read_only(home.project_id) as session:
        thread = await get_thread(session, thread.id)
        messages, more_before = await read_newest(runtime, session, thread, 1, lambda read: len(read) >= count)
        expected = to_messages(await message_store.range_of(session, thread.pk))
    assert messages == expected[-len(messages) :]
    assert more_before == (len(messages) < len(expected))
    return [message.seq for message in messages]


def test_what_is_held_is_not_read_again(home: Home, sent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(holding, "_FIRST_PAGE", 8)

    def read() -> list[str]:
        return [sql for sql in sent if sql.startswith("SELECT") and "FROM messages" in sql]

    async def use(runtime: Runtime) -> None:
        writers = Writers(home, [runtime], 1)
        writers.thread = await home.write(runtime, *TEXTS)
        for spec in SPECS[:2]:
            await writers.prompt(runtime, spec, dry_run=True)
        sent.clear()
        await writers.prompt(runtime, replace(SPECS[1], recall=None), dry_run=True)
        assert not [sql for sql in read() if "seq >=" in sql]
        await home.write(runtime, "One more.", thread=writers.thread)
        await writers.prompt(runtime, SPECS[1], dry_run=True)
        assert len([sql for sql in read() if "seq >=" in sql]) == 1
        sent.clear()
        for _ in range(2):  # what the first appends
            await writers.prompt(runtime, replace(SPECS[1], recall=None), dry_run=False)
        assert not [sql for sql in read() if "seq >=" in sql]

    home.run(use, HashingEmbedder(inline=True))


def test_what_recall_looked_at_is_not_read_again(home: Home, sent: list[str]) -> None:  # noqa: F811
    def quoted() -> list[str]:
        return [sql for sql in sent if sql.startswith("SELECT seq, id, role, content")]

    async def use(runtime: Runtime) -> None:
        writers = Writers(home, [runtime], 1)
        writers.thread = await home.write(runtime, *TEXTS)
        spec = PromptSpec(
            model="claude-sonnet-5", max_prompt_tokens=300, recall=RecallSpec(max_tokens=120, query=TEXTS[0])
        )
        first, second = [await writers.outcome(runtime, spec) for _ in range(2)]
        assert first == second
        assert first[1]["recalled"]
        assert len(quoted()) == 1
        assert "Not any more." not in first[0]
        await edit(home, runtime, writers.thread, first[1]["recalled"][0]["seq"], f"{TEXTS[0]} Not any more.")
        assert "Not any more." in (await writers.outcome(runtime, spec))[0]
        assert len(quoted()) == 2

    home.run(use, HashingEmbedder(inline=True))


@pytest.mark.parametrize("room", [10_000, 3_000])
def test_no_more_of_what_recall_looked_at_is_held_than_there_is_room_for(
    home: Home, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(holding, "_QUOTABLE_BYTES", room)

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS)
        for seqs in ([1, 2], [2, 3, 4], [1, 5], [2], list(range(1, 20))):
            async with runtime.db.read_only(home.project_id) as session:
                found = await quotable(runtime, session, thread, seqs)
                read = await quotable(replace(runtime, held=HeldThreads()), session, thread, seqs)
            assert {seq: one.quote(1) for seq, one in found.items()} == {seq: one.quote(1) for seq, one in read.items()}
            assert sorted(found) == sorted(read) == seqs
            held = runtime.held.find(HeldQuotables, thread.pk, 0)
            assert held is None or held.nbytes == sum(one.nbytes for one in held.messages.values())
            assert runtime.held.nbytes <= room

    home.run(use, HashingEmbedder(inline=True))


def test_what_came_to_nothing_is_not_held(home: Home) -> None:
    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS[:3])
        new = await ingest.prepare(runtime, [Draft("user", "Never said.", "", {})], NOW)
        with suppress(ZeroDivisionError):
            async with runtime.db.transaction(home.project_id) as session:
                thread = await get_thread(session, thread.id, lock=True)
                await ingest.append(session, thread, new, [""])
                thread = await get_thread(session, thread.id)
                read, _ = await read_newest(runtime, session, thread, 1, lambda _: True)
                assert read[-1].text == "Never said."
                raise ZeroDivisionError
        await home.write(runtime, TEXTS[3], thread=thread)
        assert await newest(home, runtime, thread, 2) == [1, 2, 3, 4]

    home.run(use, HashingEmbedder(inline=True))


@pytest.mark.parametrize("held", [9, 2])
def test_a_thread_that_was_read_before_others_wrote(home: Home, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(holding, "_FIRST_PAGE", held)

    async def use(runtime: Runtime) -> None:
        before = await home.write(runtime, *TEXTS[:3])
        await home.write(runtime, *TEXTS[3:9], thread=before)
        assert len(await newest(home, runtime, before, held)) == held
        async with runtime.db.read_only(home.project_id) as session:
            read, _ = await read_newest(runtime, session, before, 1, lambda read: len(read) == 3)
        assert [message.seq for message in read] == [1, 2, 3]

    home.run(use, HashingEmbedder(inline=True))


def test_what_was_deleted_is_forgotten_when_the_thread_is_next_looked_at(home: Home) -> None:
    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS[:5])
        await newest(home, runtime, thread, 5)
        await delete(home, runtime, thread, 2)
        assert runtime.held.find(HeldMessages, thread.pk, thread.edited_version)
        async with runtime.db.read_only(home.project_id) as session:
            thread = await get_thread(session, thread.id)
        assert runtime.held.find(HeldMessages, thread.pk, thread.edited_version) is None
        assert runtime.held.nbytes == 0
        assert await newest(home, runtime, thread, 5) == [1, 3, 4, 5]

    home.run(use, HashingEmbedder(inline=True))


def test_no_more_is_held_than_there_is_room_for(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_FIRST_PAGE", 4)
    monkeypatch.setattr(holding, "_MESSAGES_BYTES", 9 * size_of(dumps([{"type": "text", "text": TEXTS[-1]}])))

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS[:2])
        for text in TEXTS:
            await home.write(runtime, text, thread=thread)
            await newest(home, runtime, thread, 40)
            held = runtime.held.find(HeldMessages, thread.pk, 0)
            assert held
            assert len(held.messages) <= 9
            assert runtime.held.nbytes == held.nbytes
        assert [message.seq for message in held.messages] == list(range(held.first_seq, 23))

    home.run(use, HashingEmbedder(inline=True))


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "Short."}],
        [{"type": "text", "text": "등대 " * 500}],
        [{"type": "tool_use", "id": "a", "name": "b", "input": {"rows": [{"a": 1.5, "b": 2, "c": "d"}] * 100}}],
        [{"type": "tool_use", "id": "a", "name": "b", "input": {"deep": [[[[]], [[], []]]] * 100}}],
        [{"type": "text", "text": "x"}] * 50,
    ],
)
def test_what_a_message_takes_is_not_underrated(content: list[Any]) -> None:
    text = dumps(loads(dumps(content)))
    assert _bytes(loads(text)) + sum(map(getsizeof, map(dumps, content))) < size_of(text)


@pytest.mark.parametrize("text", ["", "Short.", "The lantern. " * 700, "등대 " * 5_000, "x" * 901])
def test_what_is_quoted_is_not_underrated(text: str) -> None:
    quotable = Quotable("msg_1", "assistant", text, NOW)
    assert sum(_bytes([*quote]) for quote in quotable.split()) + getsizeof(text) < quotable.nbytes


def _bytes(value: Any) -> int:
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = [*value, *value.values()]
    elif isinstance(value, list):
        inner = value
    return getsizeof(value) + getsizeof(getattr(value, "__dict__", None)) + sum(map(_bytes, inner))
