"""Actions: what was asked, by whom, and how far it has come."""
