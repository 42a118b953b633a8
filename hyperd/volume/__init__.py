"""Volumes: what they are on the host, checked and opened without trusting a path."""
