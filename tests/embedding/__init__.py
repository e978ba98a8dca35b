"""Vectors from write to switch, with a real Postgres and an embedder that hashes words."""
