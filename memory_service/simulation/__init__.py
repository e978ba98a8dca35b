"""What a policy would have cost: recorded threads replayed with the engine itself, without a database or a provider."""
