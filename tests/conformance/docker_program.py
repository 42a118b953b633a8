"""Docker's own command line, and an image for it."""

from __future__ import annotations

import os
import subprocess

from tests.conformance.docker_pair import Docker
from tests.support.registry import busybox_tar

IMAGE = "bb:1"
USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUPS_FILE = "root:x:0:\nnogroup:x:65534:\n"
# Debian's, where another one is installed as well.
PROGRAM = os.environ.get("HYPERD_TEST_DOCKER", "/usr/bin/docker")


def import_image(docker: Docker) -> None:
    """Make the image of Debian's busybox."""
    done = subprocess.run(
        [PROGRAM, "import", "--change", 'CMD ["sh"]', "-", IMAGE],
        input=busybox_tar(users=USERS, groups=GROUPS_FILE),
        capture_output=True,
        env=dict(docker.environment),
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
