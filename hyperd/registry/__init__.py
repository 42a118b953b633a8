"""Registries: names of images, credentials, HTTP. Knows nothing of the image store."""
