"""The configuration: one frozen object, read once, handed down."""
