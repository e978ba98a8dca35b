"""Sizes of images, from the first bytes of files."""

from __future__ import annotations

import base64

import pytest

from memory_service.core.images import UNKNOWN_IMAGE_TOKENS, image_size, media_tokens
from memory_service.core.tokens import image_tokens

PNG = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + b"IHDR" + (640).to_bytes(4) + (480).to_bytes(4)
GIF = b"GIF89a" + (320).to_bytes(2, "little") + (200).to_bytes(2, "little")


def _webp(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + (1000).to_bytes(4, "little") + b"WEBP" + kind + (900).to_bytes(4, "little") + body


VP8 = _webp(b"VP8 ", b"\x10\x02\x00\x9d\x01\x2a" + (800).to_bytes(2, "little") + (600).to_bytes(2, "little"))
VP8L = _webp(b"VP8L", b"\x2f" + ((801 - 1) | (601 - 1) << 14).to_bytes(4, "little") + bytes(8))
VP8X = _webp(b"VP8X", bytes(4) + (4_000 - 1).to_bytes(3, "little") + (3_000 - 1).to_bytes(3, "little"))


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body


SIZE = b"\x08" + (768).to_bytes(2) + (1024).to_bytes(2) + b"\x03"
JPEG = (
    b"\xff\xd8" + _segment(0xE0, b"JFIF\0") + _segment(0xE1, bytes(5_000)) + _segment(0xC4, SIZE) + _segment(0xC2, SIZE)
)
JPEG_WITH_FILL_BYTES = b"\xff\xd8" + _segment(0xE0, b"JFIF\0") + b"\xff\xff" + _segment(0xC0, SIZE)


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (PNG, (640, 480)),
        (GIF, (320, 200)),
        (VP8, (800, 600)),
        (VP8L, (801, 601)),
        (VP8X, (4_000, 3_000)),
        (JPEG, (1_024, 768)),
        (JPEG_WITH_FILL_BYTES, (1_024, 768)),
        (PNG[:20], None),
        (JPEG[:40], None),
        (b"BM" + bytes(60), None),
        (b"", None),
    ],
)
def test_sizes(head: bytes, size: tuple[int, int] | None) -> None:
    assert image_size(head) == size


def test_tokens_follow_the_size_after_scaling_down() -> None:
    assert image_tokens(640, 480) == 410
    assert image_tokens(1_568, 1_568) == image_tokens(6_000, 6_000) == 3_279
    assert image_tokens(0, 10) == 0


def _block(kind: str, **source: str) -> dict[str, object]:
    return {"type": kind, "source": source}


def test_tokens_of_blocks() -> None:
    encoded = base64.b64encode(PNG).decode()
    assert media_tokens(_block("image", type="base64", data=encoded)) == 410
    assert media_tokens(_block("image", type="base64", data="no base64!")) == UNKNOWN_IMAGE_TOKENS
    assert media_tokens(_block("image", type="url", url="https://example.com/a.png")) == UNKNOWN_IMAGE_TOKENS
    assert media_tokens(_block("document", type="text", data="plain")) == 0
    assert media_tokens(_block("document", type="base64", data="x" * 400_000)) == 7_500
    assert media_tokens({"type": "text", "text": "hi"}) == media_tokens({"type": "image"}) == 0
