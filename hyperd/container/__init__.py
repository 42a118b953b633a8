"""Containers: their plans, processes, states, logs and additional processes."""
