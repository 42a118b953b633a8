"""The benchmark behind ``scripts/bench``: scenarios, peers, the table."""
