"""The relay: one event loop that joins clients, logs and the streams of guests."""
