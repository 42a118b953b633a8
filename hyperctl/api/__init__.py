"""The daemon's API: errors, transport, streams, client, each above the one before it."""
