"""VMs through libvirt: config (objects to XML), designer (policy), guest (one domain), host (connection), driver.

Only ``hyperd.vm.driver`` is for the rest of the daemon; the engine builds a ``LibvirtDriver`` by its configuration.
"""

import os

# libvirt reads this once, when its Python module is first imported. Without it, its warnings go to the daemon's stderr;
# every error that matters reaches us as an exception anyway.
os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", "3:syslog:hyperd-libvirt")
