"""Pods: what they are asked to be, their states and their service."""
