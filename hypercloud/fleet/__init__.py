"""Containers as Shipyard sees them: all of all engines, never stored here."""
