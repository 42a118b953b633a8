"""hyperd: a daemon that runs pods of containers, every pod in its own virtual machine."""

__version__ = "0.1.0"
