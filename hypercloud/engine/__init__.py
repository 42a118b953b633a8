"""Docker-API engines: their addresses, clients, health and containers."""
