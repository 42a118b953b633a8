"""Specifications of pods, containers, volumes and networks: values without I/O."""
