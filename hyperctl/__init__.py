"""hyperctl: the command line of hyperd."""

__version__ = "0.1.0"
