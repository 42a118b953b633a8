"""Manifests of Kubernetes made into pods of this host, and back."""
