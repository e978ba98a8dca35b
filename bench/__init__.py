"""Measurements of the running service: `python -m bench [name…] [--json] [--quick]`. See README.md."""
