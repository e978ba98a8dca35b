"""Items of conversations and responses, and the messages that hold them.

An item that is sent is kept as one message. A message is shown as one item or several: what it says, and each reasoning,
call and result in it. The id of an item is that of its message, with a prefix for what is not its (first) text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from memory_service.api.openai.translate import image_source
from memory_service.core.canonical import dumps, loads
from memory_service.core.counting import without_bytes
from memory_service.core.media import source_url
from memory_service.core.messages import THINKING_TYPES, Block, block_text
from memory_service.core.replies import reply_content
from memory_service.errors import InvalidInput
from memory_service.services.ingest import Draft
from memory_service.store.messages import MessageRecord

_PREFIXES = {"reasoning": "rs", "function_call": "fc", "function_call_output": "fco", "message": "m"}
_ID = re.compile(r"(?:rs|fco|fc|m)\d*_(.+)", re.DOTALL)
#: They have no role of their own in a thread: the user's messages hold them, marked.
_DIRECTING = ("system", "developer")
_TEXTS = ("input_text", "output_text", "text")


@dataclass(frozen=True, slots=True)
class ShownItem:
    """An item, and which blocks of its message it is made of."""

    item: dict[str, Any]
    blocks: range

    @property
    def id(self) -> str:
        return str(self.item["id"])


def drafts(items: Any, field: str) -> list[Draft]:
    """What is sent as messages, one for each item. Raises InvalidInput naming what cannot be kept."""
    if isinstance(items, str):
        return [Draft("user", items, f"{field}.", {})]
    return [_draft(item, f"{field}[{index}]") for index, item in enumerate(items)]


def _draft(item: Mapping[str, Any], field: str) -> Draft:
    kind = item.get("type") or "message"
    match kind:
        case "message":
            return _message(item, field)
        case "function_call":
            call = {"id": item.get("call_id"), "function": {key: item.get(key) for key in ("name", "arguments")}}
            return Draft("assistant", reply_content({"tool_calls": [call]}, f"{field}."), f"{field}.", {})
        case "function_call_output":
            result = {"type": "tool_result", "tool_use_id": item.get("call_id"), "content": _output(item, field)}
            return Draft("user", [result], f"{field}.", {})
        case "reasoning":
            return Draft("assistant", [_thinking(item)], f"{field}.", {})
    raise InvalidInput(
        f"`{field}.type`: items of type {str(kind)[:64]!r} are not supported; message, function_call, "
        "function_call_output and reasoning are.",
        field=f"{field}.type",
    )


def _message(item: Mapping[str, Any], field: str) -> Draft:
    role = item.get("role")
    if role not in ("user", "assistant", *_DIRECTING):
        raise InvalidInput(f"`{field}.role` must be user, assistant, system or developer.", field=f"{field}.role")
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "input_text", "text": content}]
    if not isinstance(content, list):
        raise InvalidInput(f"`{field}.content` must be a string or a list.", field=f"{field}.content")
    blocks = [_native_part(part, f"{field}.content[{index}]") for index, part in enumerate(content)]
    own = {"role": role} if role in _DIRECTING else {}
    own |= {"phase": item["phase"]} if item.get("phase") in ("commentary", "final_answer") else {}
    if role in _DIRECTING:
        blocks = [_marked(block, role) for block in blocks]
        role = "user"
    return Draft(role, blocks, f"{field}.", {}, openai=dumps(own) if own else None)


def _marked(block: Block, role: str) -> Block:
    return {**block, "text": f"<{role}>\n{block['text']}\n</{role}>"} if block["type"] == "text" else block


def _unmarked(text: str, role: str | None) -> str:
    """Without the marks of `_marked`, unless the message was edited since."""
    start, end = f"<{role}>\n", f"\n</{role}>"
    return text[len(start) : -len(end)] if role and text.startswith(start) and text.endswith(end) else text


def _native_part(part: Any, field: str) -> Block:
    if not isinstance(part, dict):
        raise InvalidInput(f"`{field}` must be an object.", field=field)
    match part.get("type"):
        case kind if kind in _TEXTS and isinstance(part.get("text"), str):
            return {"type": "text", "text": part["text"]}
        case "refusal" if isinstance(part.get("refusal"), str):
            return {"type": "text", "text": part["refusal"]}
        case "input_image":
            return {"type": "image", "source": _source(part, "image_url", field)}
        case "input_file":
            titled = {"title": part["filename"]} if isinstance(part.get("filename"), str) else {}
            named = "file_data" if part.get("file_data") else "file_url"
            return {"type": "document", "source": _source(part, named, field), **titled}
    raise InvalidInput(
        f"`{field}` must be an input_text, output_text, refusal, input_image or input_file with its fields.",
        field=field,
    )


def _source(part: Mapping[str, Any], named: str, field: str) -> dict[str, str]:
    if isinstance(part.get("file_id"), str):
        return {"type": "file", "file_id": part["file_id"]}
    if isinstance(part.get(named), str):
        return image_source(part[named])
    raise InvalidInput(f"`{field}` needs `{named}` or `file_id`.", field=f"{field}.{named}")


def _output(item: Mapping[str, Any], field: str) -> Any:
    output = item.get("output", "")
    if isinstance(output, list):
        return [_native_part(part, f"{field}.output[{index}]") for index, part in enumerate(output)]
    return output


def _thinking(item: Mapping[str, Any]) -> Block:
    """Reasoning with a signature that came from here goes back as it was; other models' is kept and shown to none."""
    texts = [part.get("text") for part in item.get("content") or () if isinstance(part, dict)]
    said = "\n".join(text for text in texts if isinstance(text, str))
    signature = item.get("encrypted_content")
    if isinstance(signature, str) and signature.startswith(_SIGNED):
        return {"type": "thinking", "thinking": said, "signature": signature.removeprefix(_SIGNED)}
    foreign = {key: item[key] for key in ("summary", "content", "encrypted_content") if item.get(key) is not None}
    return {"type": "thinking", "thinking": said, "foreign": foreign}


_SIGNED = "signature:"


def message_id(item_id: str) -> str:
    """Of the message that an item is part of, if the id is not itself a message's."""
    found = _ID.fullmatch(item_id)
    return found[1] if found else item_id


def shown_items(record: MessageRecord) -> list[ShownItem]:
    """All items of a message, in its order."""
    own = loads(record.openai) if record.openai else {}
    role = own.get("role") or record.role
    counted: dict[str, int] = {}
    shown = []
    for kind, blocks, where in _parts(loads(record.content)):
        number = counted[kind] = counted.get(kind, -1) + 1
        item = {"id": item_id(record.id, kind, number), "type": kind}
        shown.append(ShownItem({**item, **_shown(kind, blocks, role, own), "status": status_of(record)}, where))
    return shown


def status_of(record: MessageRecord) -> str:
    return "completed" if record.status == "completed" else "incomplete"


def item_id(message_id: str, kind: str, number: int) -> str:
    """Of the `number`th item of a kind in a message."""
    if kind == "message" and number == 0:
        return message_id
    return f"{_PREFIXES[kind]}{number or ''}_{message_id}"


def kind_of(block_type: str) -> str:
    if block_type in THINKING_TYPES:
        return "reasoning"
    return {"tool_use": "function_call", "tool_result": "function_call_output"}.get(block_type, "message")


def _parts(content: Sequence[Block]) -> Iterator[tuple[str, list[Block], range]]:
    """What is said together is one item; all else is one for each block."""
    numbered = enumerate(content)
    for key, group in groupby(numbered, key=lambda pair: _group(pair[0], pair[1])):
        pairs = list(group)
        yield key[0], [block for _, block in pairs], range(pairs[0][0], pairs[-1][0] + 1)


def _group(index: int, block: Block) -> tuple[str, int]:
    kind = kind_of(block["type"])
    return kind, -1 if kind == "message" else index


def _shown(kind: str, blocks: Sequence[Block], role: str, own: Mapping[str, Any]) -> dict[str, Any]:
    block = blocks[0]
    match kind:
        case "function_call":
            return {"call_id": block["id"], "name": block["name"], "arguments": dumps(block["input"])}
        case "function_call_output":
            content = block.get("content", "")
            shown = content if isinstance(content, str) else [_input_part(part, None) for part in content]
            return {"call_id": block["tool_use_id"], "output": shown}
        case "reasoning":
            return _reasoning(block)
    phase = {"phase": own["phase"]} if "phase" in own else {}
    part_of = _output_part if role == "assistant" else lambda block: _input_part(block, own.get("role"))
    return {"role": role, "content": [part_of(each) for each in blocks], **phase}


def _reasoning(block: Block) -> dict[str, Any]:
    if "foreign" in block:
        return {"summary": [], **block["foreign"]}
    said = block.get("thinking")
    texts = [{"type": "reasoning_text", "text": said}] if said else []
    signature = block.get("signature")
    return {"summary": [], "content": texts, "encrypted_content": f"{_SIGNED}{signature}" if signature else None}


def output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _output_part(block: Block) -> dict[str, Any]:
    return output_text(block_text(block) or dumps(without_bytes(block)))


def _input_part(block: Block, role: str | None) -> dict[str, Any]:
    source = block.get("source")
    if isinstance(source, Mapping) and source.get("type") in ("base64", "url", "file"):
        file_id = {"file_id": source["file_id"]} if source["type"] == "file" else {}
        url = {} if file_id else source_url(source)
        if block["type"] == "image":
            return {"type": "input_image", "detail": "auto", **(file_id or {"image_url": url})}
        if block["type"] == "document":
            named = {"filename": block["title"]} if "title" in block else {}
            held = "file_data" if source["type"] == "base64" else "file_url"
            return {"type": "input_file", **named, **(file_id or {held: url})}
    return {"type": "input_text", "text": _unmarked(block_text(block) or dumps(without_bytes(block)), role)}
