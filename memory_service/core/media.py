"""Where the bytes of an image or a document come from, checked as providers do; and what other APIs call such blocks."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from memory_service.errors import InvalidMessage

_DEFAULT_MEDIA_TYPE = "application/octet-stream"
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_PDF_TYPES = ("application/pdf",)
# How files of these types begin. What begins otherwise is left to the provider.
_BEGINNINGS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"%PDF-"), "application/pdf"),
)
_SOURCES = {"image": ("base64", "url", "file"), "document": ("base64", "text", "content", "url", "file")}

_SEND_TEXT = 'Send {"type": "text", "text": …}'
_SEND_IMAGE = (
    'Send {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": …}}, or a source '
    '{"type": "url", "url": …}'
)
_SEND_DOCUMENT = (
    'Send {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": …}}, or a source '
    '{"type": "url", "url": …}'
)
_SEND_CALL = 'Send {"type": "tool_use", "id": …, "name": …, "input": {…}} in an assistant message'
_SEND_RESULT = 'Send {"type": "tool_result", "tool_use_id": …, "content": …} in a user message'
# Types of OpenAI's content parts and items, with what to send instead.
FOREIGN_TYPES: Mapping[str, str] = {
    "input_text": _SEND_TEXT,
    "output_text": _SEND_TEXT,
    "refusal": _SEND_TEXT,
    "image_url": _SEND_IMAGE,
    "input_image": _SEND_IMAGE,
    "file": _SEND_DOCUMENT,
    "input_file": _SEND_DOCUMENT,
    "input_audio": f"There are no blocks for sound; {_SEND_TEXT[0].lower()}{_SEND_TEXT[1:]} with what is said",
    "function": _SEND_CALL,
    "function_call": _SEND_CALL,
    "function_call_output": _SEND_RESULT,
}


def check_source(block: Mapping[str, Any], field: str) -> None:
    """Check the source of an image or document block. Raises InvalidMessage naming the field and the remedy."""
    source, at = block.get("source"), f"{field}.source"
    if not isinstance(source, Mapping) or not isinstance(kind := source.get("type"), str):
        raise InvalidMessage(f"`{at}` must be an object with a `type`.", field=at)
    if kind not in _SOURCES[block["type"]]:
        known = ", ".join(_SOURCES[block["type"]])
        raise InvalidMessage(f"`{at}.type` {kind[:64]!r} is not one of {known}.", field=f"{at}.type")
    match kind:
        case "base64":
            _check_media_type(source, _IMAGE_TYPES if block["type"] == "image" else _PDF_TYPES, at)
            _check_base64(source, at)
        case "text":
            _check_media_type(source, ("text/plain",), at)
            if not _text(source, "data", at).strip():
                raise InvalidMessage(f"`{at}.data` is blank; send text, or leave the block out.", field=f"{at}.data")
        case "content":
            if not source.get("content") or not isinstance(source["content"], str | list):
                raise InvalidMessage(
                    f"`{at}.content` must be a string or a list of content blocks.", field=f"{at}.content"
                )
        case "url":
            if not _text(source, "url", at).startswith(("https://", "http://")):
                raise InvalidMessage(
                    f"`{at}.url` must begin with https://; send the bytes themselves as a base64 source.",
                    field=f"{at}.url",
                )
        case "file":
            _text(source, "file_id", at)


def _check_media_type(source: Mapping[str, Any], known: tuple[str, ...], at: str) -> None:
    if source.get("media_type") not in known:
        raise InvalidMessage(f"`{at}.media_type` must be {' or '.join(known)}.", field=f"{at}.media_type")


def _check_base64(source: Mapping[str, Any], at: str) -> None:
    try:
        decoded = b64decode(_text(source, "data", at), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        raise InvalidMessage(
            f"`{at}.data` must be base64, padded, without line breaks and without a `data:` prefix.", field=f"{at}.data"
        )
    found = next((media_type for start, media_type in _BEGINNINGS if start.match(decoded)), source["media_type"])
    if found != source["media_type"]:
        raise InvalidMessage(
            f"`{at}.media_type` is {source['media_type']}, but the data is {found}; providers refuse that.",
            field=f"{at}.media_type",
        )


def _text(source: Mapping[str, Any], key: str, at: str) -> str:
    value = source.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidMessage(f"`{at}.{key}` must be a non-empty string.", field=f"{at}.{key}")
    return value


def source_url(source: Mapping[str, Any]) -> str:
    """The address of an image or a file; its bytes as a data URL."""
    if source.get("type") == "base64":
        return f"data:{source.get('media_type', _DEFAULT_MEDIA_TYPE)};base64,{source.get('data', '')}"
    return str(source.get("url", ""))
