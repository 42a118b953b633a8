"""The dialects. None imports another; what they share stands beside them."""
