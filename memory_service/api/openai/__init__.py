"""OpenAI's Assistants API, spoken at `/openai/v1`: a translation onto the same services and stores.

Its errors, lists, cursors, ids and streams are OpenAI's (`frame`, `errors`); what its objects have beyond ours is kept
with ours, in `openai` columns.
"""
