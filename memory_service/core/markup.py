"""Text quoted inside tags of our own, which it must not be able to close."""

from __future__ import annotations

import re
from collections.abc import Callable


def escaper(*tags: str) -> Callable[[str], str]:
    """An escape for text between these tags. Nothing else of it changes: code is quoted as it was written."""
    ours = re.compile(rf"<(?=/?(?:{'|'.join(tags)})\b)", re.IGNORECASE)
    return lambda text: ours.sub("&lt;", text)


_escape_document = escaper("document")


def document_text(text: str, title: str | None = None) -> str:
    """A pinned document as it stands in the system text."""
    quoted = _escape_document(title or "").replace('"', "&quot;")
    heading = f' title="{quoted}"' if title else ""
    return f"<document{heading}>\n{_escape_document(text)}\n</document>"
