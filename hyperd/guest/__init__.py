"""The guest: the agent, the initramfs, the kernels."""
