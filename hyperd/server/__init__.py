"""The process of the daemon: gunicorn, listeners, TLS, logging, memory."""
