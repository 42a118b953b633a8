"""Settings: what there is, how they are read, which of them SIGHUP can change."""
