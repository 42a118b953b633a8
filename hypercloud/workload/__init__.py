"""Stacks, services and containers as Docker Cloud knew them: what should be, and making it so."""
