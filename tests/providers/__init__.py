"""The adapters to what others made."""
