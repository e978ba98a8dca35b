"""The HTTP edge: routes, wire models, authentication, one error table. No rules of the engine."""
