"""What happens: a bus within the process, and the table of Shipyard's events."""
