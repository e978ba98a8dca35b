"""What an operator sees: logs, and metrics in `telemetry.metrics`."""

from memory_service.telemetry.logs import configure_logging, logger

__all__ = ["configure_logging", "logger"]
