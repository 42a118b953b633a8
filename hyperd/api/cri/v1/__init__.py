"""Generated modules of the CRI; see api.proto."""
