"""Embedders: texts in, vectors out. `registry` says which there are, and imports the one that is opened."""
