"""Tells endpoints what happened: outbox, endpoints, deliveries, channels and the sender. See docs/events.md."""
