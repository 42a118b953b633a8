"""Layers: a tar stream becomes a read-only squashfs image."""
