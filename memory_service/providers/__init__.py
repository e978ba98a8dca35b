"""The only vendor packages. Imported lazily where they are heavy."""
