"""Those who answer a prompt: Anthropic's API, every OpenAI-compatible server, and an echo."""
