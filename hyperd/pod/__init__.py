"""Pods: specification, states, service and recovery."""
