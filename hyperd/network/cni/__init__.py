"""Networks that plugins make: the Container Network Interface (CNI specification, 0.3 to 1.1)."""
