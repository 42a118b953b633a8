"""Virtual machines: the driver's contract, its implementations and the service above them."""
