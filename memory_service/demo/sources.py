"""Reads the conversations of a file, whatever wrote it.

Recognised by content, not by name:

- our own export: NDJSON lines with `type` `assistant`, `thread` or `message`;
- LoCoMo: a JSON list of conversations (or one), `speaker_a` becomes the user, `speaker_b` the assistant;
- OpenAI messages: a JSON list, or one per line, or an object that holds them as `messages`, `history` or
  `traj` (or a list of such objects, or one per line). `tools` beside these, `created_at` and `expects` beside `role` and
  `content` are kept.

One of several conversations in a file is addressed as `file.json#conv-26` (or `pick="conv-26"`): an id, or a
position from 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from memory_service.core.markup import document_text
from memory_service.demo.conversation import Conversation, Line
from memory_service.demo.openai_messages import LineReader, from_openai, is_message, tools_of
from memory_service.errors import InvalidInput

MAX_FILE_BYTES = 200_000_000
MAX_LINE_BYTES = 10_000_000
EXPECTED = "Expected an export of this service, a LoCoMo file, or OpenAI messages (a JSON list, or one per line)"
WRAPPERS = ("messages", "history", "traj")
IDS = ("sample_id", "id", "task_id", "thread_id")


def load_conversation(path: str | Path, *, pick: str | None = None) -> Conversation:
    """The first conversation in a file; `pick` (or `#…` after the path) chooses one of several."""
    return next(load_conversations(path, pick=pick))


def load_conversations(path: str | Path, *, pick: str | None = None) -> Iterator[Conversation]:
    """All conversations of a file, at least one, or the one that `pick` names. Raises InvalidInput."""
    file, pick = _split_pick(str(path), pick)
    text = _read(file)
    parsed = _parse_json(text)
    if parsed is not None:
        return _from_json(parsed, file, pick)
    return _from_ndjson(list(_ndjson(text, file)), file, pick)


def _split_pick(path: str, pick: str | None) -> tuple[Path, str | None]:
    if pick is None and not Path(path).exists() and "#" in path:
        path, _, pick = path.rpartition("#")
    return Path(path), pick


def _read(file: Path) -> str:
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise _invalid(f"{file.name} has {size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
        raw = file.read_bytes()
    except OSError as error:
        raise _invalid(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _invalid(f"{file.name}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x})", line=line) from error


def _parse_json(text: str) -> Any:
    """The value when the whole text is one JSON list or object, else None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _ndjson(text: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{file.name}, line {number}"
        if len(line.encode()) > MAX_LINE_BYTES:
            raise _invalid(f"{where}: longer than {MAX_LINE_BYTES:,} bytes", line=number)
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise _invalid(f"{where}: not JSON ({reason}). {EXPECTED}", line=number) from error
        if not isinstance(entry, dict):
            raise _invalid(f"{where}: not a JSON object. {EXPECTED}", line=number)
        yield number, entry


def _from_ndjson(entries: list[tuple[int, dict[str, Any]]], file: Path, pick: str | None) -> Iterator[Conversation]:
    if not entries:
        raise _invalid(f"{file.name} is empty. {EXPECTED}")
    first = entries[0][1]
    if ("type" in first and "role" not in first) or any(_is_exported(entry) for _, entry in entries):
        return _from_export(entries, file, pick)
    if _reader(first) is not None:
        return _from_json([entry for _, entry in entries], file, pick)
    lines = ((f"{file.name}, line {number}", entry) for number, entry in entries)
    return iter([from_openai(lines, title=file.stem)])


def _is_exported(entry: dict[str, Any]) -> bool:
    return entry.get("type") in ("thread", "message")


def _from_json(parsed: Any, file: Path, pick: str | None) -> Iterator[Conversation]:
    if isinstance(parsed, dict) and _is_exported(parsed):
        return _from_export([(1, parsed)], file, pick)  # an export of a single line
    if _is_message_list(parsed):
        return iter([_messages(parsed, file, title=file.stem)])
    if is_message(parsed):
        return iter([_messages([parsed], file, title=file.stem)])
    candidates = parsed if isinstance(parsed, list) else [parsed]
    known = [candidate for candidate in candidates if _reader(candidate) is not None]
    if not known:
        raise _invalid(f"{file.name} is JSON of another kind. {EXPECTED}")
    chosen = known if pick is None else [_pick(known, pick, file)]
    return (reader(one, file) for one in chosen if (reader := _reader(one)))


def _is_message_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and is_message(value[0])


def _reader(candidate: Any) -> Callable[[dict[str, Any], Path], Conversation] | None:
    if not isinstance(candidate, dict):
        return None
    if isinstance(candidate.get("conversation"), dict) and "speaker_a" in candidate["conversation"]:
        return _from_locomo
    if "speaker_a" in candidate and "session_1" in candidate:
        return lambda inner, file: _from_locomo({"conversation": inner}, file)
    if any(_is_message_list(candidate.get(key)) for key in WRAPPERS):
        return _from_wrapped
    return None


def _pick(candidates: list[dict[str, Any]], pick: str, file: Path) -> dict[str, Any]:
    by_id = [one for one in candidates if pick in {str(one[key]) for key in IDS if key in one}]
    if by_id:
        return by_id[0]
    if pick.isdecimal() and int(pick) < len(candidates):
        return candidates[int(pick)]
    names = [_name(one) or str(position) for position, one in enumerate(candidates[:20])]
    raise _invalid(f"{file.name} holds no conversation {pick!r}; it has {', '.join(names)}")


def _name(candidate: dict[str, Any]) -> str:
    return next((str(candidate[key]) for key in IDS if key in candidate), "")


def _from_wrapped(candidate: dict[str, Any], file: Path) -> Conversation:
    messages = next(candidate[key] for key in WRAPPERS if _is_message_list(candidate.get(key)))
    title = " ".join(filter(None, [file.stem, _name(candidate)]))
    return replace(_messages(messages, file, title=title), tools=tools_of(candidate.get("tools")))


def _messages(messages: list[Any], file: Path, *, title: str) -> Conversation:
    numbered = ((f"{file.name}, message {number}", entry) for number, entry in enumerate(messages, 1))
    return from_openai(numbered, title=title)


@dataclass
class _Thread:
    """A thread of an export while its lines are read."""

    fields: dict[str, Any]
    lines: list[Line]


def _from_export(entries: list[tuple[int, dict[str, Any]]], file: Path, pick: str | None) -> Iterator[Conversation]:
    """Our export, or lines like it: a message without a thread's id belongs to the thread before it."""
    assistants: dict[str, dict[str, Any]] = {}
    threads: dict[str | None, _Thread] = {}
    newest: str | None = None
    for number, entry in entries:
        kind = entry.get("type")
        if kind == "assistant":
            assistants[str(entry.get("id"))] = entry
        elif kind == "thread":
            newest = str(entry.get("id"))
            threads[newest] = _Thread(entry, [])
        elif kind == "message":
            reader = LineReader(f"{file.name}, line {number}", entry)
            line = Line(role=reader.role(), content=reader.content(), created_at=reader.created_at())
            threads.setdefault(entry.get("thread_id", newest), _Thread({}, [])).lines.append(line)
    spoken = {id_: thread for id_, thread in threads.items() if thread.lines}
    if not spoken:
        raise _invalid(f"{file.name} is an export without messages. {EXPECTED}")
    if pick is not None and pick not in spoken:
        raise _invalid(f"{file.name} holds no thread {pick!r}; it has {', '.join(map(str, list(spoken)[:20]))}")
    for id_, thread in spoken.items():
        if pick in (None, id_):
            yield _exported(str(id_ or file.stem), thread, assistants.get(str(thread.fields.get("assistant_id")), {}))


def _exported(title: str, thread: _Thread, assistant: dict[str, Any]) -> Conversation:
    shared = [_instructions(assistant), *_documents(assistant)]
    return Conversation(
        title=title,
        system=_instructions(thread.fields),
        lines=thread.lines,
        tools=tuple(thread.fields.get("tools") or assistant.get("tools") or ()),
        shared=tuple(text for text in shared if text),
        documents=_documents(thread.fields),
    )


def _documents(fields: dict[str, Any]) -> tuple[str, ...]:
    return tuple(document_text(one["text"], one.get("title")) for one in fields.get("documents") or ())


def _instructions(fields: dict[str, Any]) -> str | None:
    instructions = fields.get("instructions")
    if isinstance(instructions, list):
        instructions = "\n\n".join(str(block.get("text", "")) for block in instructions if isinstance(block, dict))
    return instructions or None


def _from_locomo(candidate: dict[str, Any], file: Path) -> Conversation:
    conversation = candidate["conversation"]
    lines = [
        _locomo_line(turn, conversation, start + timedelta(minutes=minute), where=f"{file.name}, {session}")
        for session, start in _locomo_sessions(conversation, file)
        for minute, turn in enumerate(conversation[session])
    ]
    if not lines:
        raise _invalid(f"{file.name} has no session with turns. {EXPECTED}")
    title = " ".join(filter(None, [_name(candidate), f"({conversation['speaker_a']}, {conversation['speaker_b']})"]))
    return Conversation(title=title, system=None, lines=lines)


def _locomo_sessions(conversation: dict[str, Any], file: Path) -> Iterator[tuple[str, datetime]]:
    numbers = [int(match[1]) for key in conversation if (match := re.fullmatch(r"session_(\d+)", key))]
    for number in sorted(numbers):
        session = f"session_{number}"
        if conversation[session]:
            yield (
                session,
                _locomo_time(str(conversation.get(f"{session}_date_time", "")), f"{file.name}, {session}"),
            )


def _locomo_time(text: str, where: str) -> datetime:
    try:
        return datetime.strptime(text.strip(), "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
    except ValueError as error:
        raise _invalid(f"{where}: expected a time like '1:56 pm on 8 May, 2023', found {text!r}") from error


def _locomo_line(turn: Any, conversation: dict[str, Any], at: datetime, *, where: str) -> Line:
    if not isinstance(turn, dict) or not isinstance(turn.get("text"), str):
        raise _invalid(f"{where}: expected turns with speaker and text")
    caption = turn.get("blip_caption")
    text = turn["text"] + (f" [photo: {caption}]" if caption else "")
    speakers = {conversation["speaker_a"]: "user", conversation["speaker_b"]: "assistant"}
    if turn.get("speaker") not in speakers:
        raise _invalid(f"{where}: speaker {turn.get('speaker')!r} is neither speaker_a nor speaker_b")
    role = LineReader(where, {"role": speakers[turn["speaker"]]}).role()
    return Line(role=role, content=text.strip(), created_at=at)


def _invalid(message: str, **details: object) -> InvalidInput:
    return InvalidInput(message, code="invalid_conversation", **details)
