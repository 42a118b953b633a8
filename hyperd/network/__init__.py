"""The pods' network: bridge, addresses, published ports. ``hyperd.network.service`` is the entrance."""
