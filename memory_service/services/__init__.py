"""The sequence of steps, where two or more collaborators meet."""
