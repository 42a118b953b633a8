"""The commands, one module for each group of verbs; `hyperctl.cli` loads the one it needs."""
