"""The host's side of the agent protocol: frames, plans and the client."""
