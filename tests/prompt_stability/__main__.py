"""Write the golden prompts anew. Do so when a prompt is meant to change, and say in CHANGELOG.md that prefixes move."""

from __future__ import annotations

from tests.prompt_stability.golden import path_of, render
from tests.prompt_stability.threads import THREADS

for name, thread in THREADS.items():
    path, text = path_of(name), render(list(thread()))
    changed = not path.exists() or path.read_text() != text
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    print(f"{name}: {'written' if changed else 'as before'}")
