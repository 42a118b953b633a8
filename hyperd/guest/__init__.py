"""The guest: its agent (C), its image and its kernel."""
