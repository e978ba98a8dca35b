"""`python -m bench [name…] [--json] [--quick]`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys

from rich.console import Console

from bench.report import Report, progress

NAMES = (
    *("append", "prompt", "runs", "edge", "storage", "startup", "transfer"),
    *("cache", "recall", "engine", "evidence", "tools", "ttft"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the service.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"{', '.join(NAMES)}; all by default")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast it is")
    parser.add_argument(
        "--embedder", default="builtin", help="whose vectors `recall` compares, as docs/embedders.md has it"
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {sorted(unknown)[0]!r}; there are {', '.join(NAMES)}")
    reports = [_run(name, quick=options.quick, embedder=options.embedder) for name in options.names or NAMES]
    if options.json:
        found = {"cpu_count": os.cpu_count(), "quick": options.quick, "reports": [r.to_json() for r in reports]}
        json.dump(found, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        console = Console()
        for report in reports:
            report.show(console)


def _run(name: str, *, quick: bool, embedder: str) -> Report:
    progress(f"{name} …")
    chosen = {"embedder": embedder} if name == "recall" else {}
    report = importlib.import_module(f"bench.{name}").run(quick=quick, **chosen)
    assert isinstance(report, Report)
    return report


if __name__ == "__main__":
    main()
