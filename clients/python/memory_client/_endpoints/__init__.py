"""The API, endpoint by endpoint: functions from arguments to a `Request`, which both clients share."""
