"""The table of settings in README.md, from the class: `python -m tests.docs.settings` writes it."""

from __future__ import annotations

import re
from typing import get_args

from memory_service.config import Settings
from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"
_SECTION = re.compile(r"(<!-- settings: .*? -->\n).*?(<!-- end of settings -->)", re.DOTALL)


def table() -> str:
    rows = ["| variable | what | default |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        choices = [f"`{choice}`" for choice in get_args(field.annotation) if isinstance(choice, str)]
        what = (field.description or "") + (f" One of {', '.join(choices)}." if choices else "")
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `MEMORY_{name.upper()}` | {what} | {default} |")
    return "\n".join(rows) + "\n"


def with_settings(readme: str) -> str:
    return _SECTION.sub(lambda match: match[1] + table() + match[2], readme)


if __name__ == "__main__":
    README.write_text(with_settings(README.read_text()))
