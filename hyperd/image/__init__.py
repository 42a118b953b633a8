"""Images of this host: pulling, converting, storing."""
