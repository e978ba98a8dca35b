"""What was fetched from OpenAI's Assistants API, as lines of an import.

Files hold its objects (`assistant`, `thread`, `thread.message`, `thread.run`, `thread.run.step`) as NDJSON or JSON: alone,
in arrays, in lists as the API answers them, or under names of one's own. They may come in any order and in several files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memory_service.api.openai.dump_runs import run_line, step_fields, time_of
from memory_service.api.openai.translate import image_source, native_tools
from memory_service.core.canonical import dumps, loads
from memory_service.core.runs import ENDED
from memory_service.errors import InvalidInput

_ASSISTANT_ONLY = (
    "description",
    "tool_resources",
    "temperature",
    "top_p",
    "response_format",
    "reasoning_effort",
    "tools",
)
Object = Mapping[str, Any]


@dataclass
class Dump:
    """All objects of the files. `left_out` counts, by its name, what cannot be kept, and `names` says what each line is of:
    read them when the lines were made."""

    assistants: dict[str, Object] = field(default_factory=dict)
    threads: dict[str, Object] = field(default_factory=dict)
    messages: dict[str, dict[str, Object]] = field(default_factory=lambda: defaultdict(dict))
    runs: dict[str, Object] = field(default_factory=dict)
    steps: dict[str, dict[str, Object]] = field(default_factory=lambda: defaultdict(dict))
    left_out: Counter[str] = field(default_factory=Counter)
    names: list[str] = field(default_factory=list)

    def read(self, content: bytes) -> None:
        """Take in a file. An object that came before is replaced. Raises InvalidInput."""
        found = 0
        for value in _values(content):
            for one in _objects(value):
                self._take(one)
                found += 1
        if not found:
            raise InvalidInput(
                "There is no assistant, thread, message, run or step of OpenAI's in it: they have an `id` and an `object`."
            )

    def _take(self, one: Object) -> None:
        match one["object"]:
            case "assistant":
                self.assistants[one["id"]] = one
            case "thread":
                self.threads[one["id"]] = one
            case "thread.message":
                self.messages[_thread_id(one)][one["id"]] = one
            case "thread.run":
                self.runs[one["id"]] = one
            case "thread.run.step":
                self.steps[_thread_id(one)][one["id"]] = one

    def lines(self) -> Iterator[bytes]:
        """Assistants, then each thread with its runs and messages: the same lines for the same objects, so an import can
        go on."""
        for assistant in _by_time(self.assistants.values()):
            yield self._line(f"Assistant {assistant['id']}", self._assistant(assistant))
        chosen = self._assistants_of_threads()
        runs: dict[str, list[Object]] = defaultdict(list)
        for run in _by_time(self.runs.values()):
            runs[_thread_id(run)].append(run)
        for id_ in dict.fromkeys([*self.threads, *self.messages, *self.steps, *runs]):
            yield self._line(f"Thread {id_}", self._thread(id_, chosen.get(id_)))
            for run in runs[id_]:
                yield self._line(f"Run {run['id']}", self._run(run))
            for seq, message in enumerate(self._messages(id_), 1):
                name = f"Message {message.get('id', 'of a tool call')} of thread {id_}"
                yield self._line(name, {"type": "message", "thread_id": id_, "seq": seq, **message})

    def _line(self, name: str, value: Mapping[str, Any]) -> bytes:
        self.names.append(name)
        return (dumps({key: held for key, held in value.items() if held is not None}) + "\n").encode()

    def _assistant(self, one: Object) -> dict[str, Any]:
        hosted = sum(tool.get("type") != "function" for tool in one.get("tools") or ())
        self.left_out["hosted tools of assistants: kept and shown, never executed"] += hosted
        tools = native_tools(one.get("tools") or ())
        return {
            "type": "assistant",
            "id": one["id"],
            "created_at": _time(one),
            "name": one.get("name"),
            "model": one.get("model"),
            "instructions": ((one.get("instructions") or "").strip() and one["instructions"]) or None,
            "tools": tools or None,
            "metadata": one.get("metadata") or {},
            "openai": {name: one[name] for name in _ASSISTANT_ONLY if one.get(name) not in (None, [], {})},
        }

    def _assistants_of_threads(self) -> dict[str, str]:
        """The newest assistant that each thread had, as its runs and messages tell."""
        chosen: dict[str, str] = {}
        for one in _by_time([*self.runs.values(), *(m for held in self.messages.values() for m in held.values())]):
            if (assistant_id := one.get("assistant_id")) in self.assistants:
                chosen[_thread_id(one)] = assistant_id
        return chosen

    def _thread(self, id_: str, assistant_id: str | None) -> dict[str, Any]:
        one = self.threads.get(id_, {})
        held = _by_time([*self.messages.get(id_, {}).values(), *self.steps.get(id_, {}).values()])
        resources = one.get("tool_resources")
        return {
            "type": "thread",
            "id": id_,
            "created_at": _time(one) or (_time(held[0]) if held else None),
            "assistant_id": assistant_id,
            "metadata": one.get("metadata") or {},
            "openai": {"tool_resources": resources} if resources else None,
        }

    def _run(self, one: Object) -> dict[str, Any]:
        if one.get("status") not in ENDED:
            self.left_out["runs that had not ended: kept as ended, expired unless they were being cancelled"] += 1
        assistant = self.assistants.get(str(one.get("assistant_id")), {})
        return run_line(one, str(assistant.get("model") or "unknown"))

    def _messages(self, thread_id: str) -> Iterator[dict[str, Any]]:
        """In their order, tool calls in front of what their run said in the same second."""
        steps = _by_time(self.steps.get(thread_id, {}).values())
        writing = {id_: step for step in steps if (id_ := _written_by(step))}
        for one in _in_order([*self.messages.get(thread_id, {}).values()]):
            at, run_id = _created(one), one.get("run_id")
            due = [s for s in steps if _created(s) < at or (_created(s) == at and s.get("run_id") == run_id)]
            for step in due:
                steps.remove(step)
                yield from self._calls(step)
            if message := self._message(one, writing.get(one["id"])):
                yield message
        for step in steps:
            yield from self._calls(step)

    def _message(self, one: Object, step: Object | None) -> dict[str, Any] | None:
        parts = one.get("content") or ()
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        content = [block for part in parts if (block := self._block(part))]
        if not content:
            self.left_out["messages that say nothing"] += 1
            return None
        own = {"attachments": one.get("attachments"), "step": step and step_fields(step)}
        return {
            "id": one["id"],
            "role": one.get("role"),
            "content": content,
            "status": "completed" if one.get("status", "completed") == "completed" else "incomplete",
            "run_id": one.get("run_id"),
            "created_at": _time(one),
            "metadata": one.get("metadata") or {},
            "openai": {name: value for name, value in own.items() if value} or None,
        }

    def _block(self, part: Mapping[str, Any]) -> dict[str, Any] | None:
        kind, inner = part.get("type"), part.get(str(part.get("type")))
        if kind in ("text", "refusal"):
            text = inner.get("value") if isinstance(inner, Mapping) else inner
            return {"type": "text", "text": text} if isinstance(text, str) and text.strip() else None
        if kind == "image_url" and isinstance(inner, Mapping):
            return {"type": "image", "source": image_source(str(inner.get("url")))}
        if kind == "image_file" and isinstance(inner, Mapping):
            return {"type": "image", "source": {"type": "file", "file_id": inner.get("file_id")}}
        self.left_out[f"content parts of type {kind}"] += 1
        return None

    def _calls(self, step: Object) -> Iterator[dict[str, Any]]:
        """A step's calls of functions and their outputs, as the two messages that they are here."""
        calls = (step.get("step_details") or {}).get("tool_calls") or ()
        functions = [call for call in calls if call.get("type") == "function"]
        self.left_out["calls of hosted tools"] += len(calls) - len(functions)
        if not functions:
            return
        uses = [
            {"type": "tool_use", "id": c["id"], "name": c["function"]["name"], "input": _arguments(c["function"])}
            for c in functions
        ]
        called = {"run_id": step.get("run_id"), "created_at": _time(step)}
        answered = called | ({"created_at": time} if (time := time_of(step.get("completed_at"))) else {})
        yield {"role": "assistant", "content": uses, **called, "openai": {"step": step_fields(step)}}
        yield {"role": "user", "content": [_result(call, step) for call in functions], **answered}


def _values(content: bytes) -> Iterator[Any]:
    """The JSON values of a file: one, or one a line."""
    try:
        yield loads(content)
    except InvalidInput as error:
        lines = [line for line in content.splitlines() if line.strip()]
        if len(lines) < 2 or error.code != "invalid_json":
            raise
        for number, line in enumerate(lines, 1):
            try:
                yield loads(line)
            except InvalidInput as bad:
                raise InvalidInput(f"Line {number}: {bad.message}", code=bad.code) from bad


def _objects(value: Any) -> Iterator[Object]:
    """OpenAI's objects in a value, wherever they are."""
    if isinstance(value, Mapping):
        if value.get("object") in _KINDS and isinstance(value.get("id"), str):
            yield value
            inner: Iterable[Any] = (v for k, v in value.items() if k in ("messages", "runs", "steps"))
        else:
            inner = value.values()
    else:
        inner = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    for one in inner:
        yield from _objects(one)


_KINDS = frozenset({"assistant", "thread", "thread.message", "thread.run", "thread.run.step"})


def _thread_id(one: Object) -> str:
    id_ = one.get("thread_id")
    if not isinstance(id_, str):
        raise InvalidInput(f"{one['object']} {one['id']!r} has no `thread_id`.")
    return id_


def _created(one: Object) -> float:
    created = one.get("created_at")
    return float(created) if isinstance(created, int | float) else 0.0


def _by_time(objects: Iterable[Object]) -> list[Object]:
    return sorted(objects, key=_created)


def _in_order(messages: list[Object]) -> list[Object]:
    """Oldest first. Seconds are all that there is to go by; within one, lists that come newest first are turned around."""
    falling = _created(messages[0]) > _created(messages[-1]) if messages else False
    same = bool(messages) and _created(messages[0]) == _created(messages[-1])
    newest_first = falling or (same and messages[0].get("role") == "assistant")
    return _by_time(reversed(messages) if newest_first else messages)


def _time(one: Object) -> str | None:
    return time_of(one.get("created_at"))


def _written_by(step: Object) -> str | None:
    """The message that a step is."""
    details = step.get("step_details") or {}
    return (details.get("message_creation") or {}).get("message_id")


def _result(call: Object, step: Object) -> dict[str, Any]:
    """The output of a call; of one that nobody answered, that nobody did."""
    output = call["function"].get("output")
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": output or ""}
    if output is None and step.get("status") != "completed":
        result |= {"content": "No output came.", "is_error": True}
    return result


def _arguments(function: Mapping[str, Any]) -> Any:
    """Models write arguments; what is no object is kept as text."""
    text = function.get("arguments") or "{}"
    try:
        read = loads(text)
    except InvalidInput:
        read = None
    return read if isinstance(read, dict) else {"arguments": text}
