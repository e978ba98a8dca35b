"""`memory-service demo`: a conversation of several days played through the REST API."""
