"""Helpers that several test modules share; ``pythonpath`` in pyproject.toml makes them importable as ``support``."""
