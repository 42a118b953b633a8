"""Fuzz targets of the daemon's parsers, their corpora, and what runs them (``scripts/fuzz``)."""
