"""How large an image is, read from the first bytes of the file; enough to estimate its tokens."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from memory_service.core.tokens import image_tokens

MEDIA_TYPES = frozenset({"image", "document"})
# What a provider makes of an image of unknown size at most, after scaling it down.
UNKNOWN_IMAGE_TOKENS = 1_600
_HEADER_BASE64_CHARACTERS = 87_384  # 64 KiB: a JPEG's size may stand behind a thumbnail
_PDF_BYTES_PER_TOKEN = 40


def media_tokens(block: Mapping[str, Any]) -> int:
    """Estimated tokens of the image or document that a block is, and of those that it holds."""
    return _own_tokens(block) + sum(media_tokens(part) for part in parts_of(block) if isinstance(part, Mapping))


def parts_of(block: Mapping[str, Any]) -> Sequence[Any]:
    """What a block holds where a provider looks for blocks: its `content`, and that of its `source`."""
    source = block.get("source")
    held = (block.get("content"), source.get("content") if isinstance(source, Mapping) else None)
    return [part for parts in held if isinstance(parts, list) for part in parts]


def is_encoded(block: Mapping[str, Any]) -> bool:
    """Whether the bytes of an image or document stand in the block itself: base64, which is never read as text."""
    source = block.get("source")
    return (
        block.get("type") in MEDIA_TYPES
        and isinstance(source, Mapping)
        and source.get("type") == "base64"
        and isinstance(source.get("data"), str)
    )


def _own_tokens(block: Mapping[str, Any]) -> int:
    source = block.get("source")
    if not isinstance(source, Mapping) or block.get("type") not in MEDIA_TYPES:
        return 0
    if not is_encoded(block):
        return UNKNOWN_IMAGE_TOKENS if source.get("type") not in ("text", "content") else 0
    encoded = source["data"]
    if block["type"] == "document":
        return max(UNKNOWN_IMAGE_TOKENS, len(encoded) * 3 // 4 // _PDF_BYTES_PER_TOKEN)
    try:
        head = base64.b64decode(encoded[:_HEADER_BASE64_CHARACTERS])
    except (binascii.Error, ValueError):
        return UNKNOWN_IMAGE_TOKENS
    size = image_size(head)
    return image_tokens(*size) if size else UNKNOWN_IMAGE_TOKENS


def image_size(head: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG, GIF, WebP or JPEG; None for anything else."""
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
        return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    if head[:6] in (b"GIF87a", b"GIF89a") and len(head) >= 10:
        return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) >= 30:
        return _webp_size(head)
    if head[:2] == b"\xff\xd8":
        return _jpeg_size(head)
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    match head[12:16]:
        case b"VP8X":
            return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        if head[at + 1] == 0xFF:  # fill bytes may stand before a marker
            at += 1
            continue
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start-of-frame segment
            return int.from_bytes(head[at + 7 : at + 9]), int.from_bytes(head[at + 5 : at + 7])
        at += 2 + length
    return None
