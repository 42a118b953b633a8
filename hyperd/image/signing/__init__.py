"""Signatures of images: the policy, and which ones were checked."""
