"""What happens in the daemon, told to whoever listens."""
