"""The only SQL. Rows come out as frozen dataclasses of the core or of this package; tables never leave it."""
