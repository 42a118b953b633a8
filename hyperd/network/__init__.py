"""The pods' networks. ``service`` has the networks as objects, ``driver`` the contract of what carries them."""
