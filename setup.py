"""Thin shim: all metadata lives in pyproject.toml (kept because the project promises a setup.py)."""

from setuptools import setup

setup()
