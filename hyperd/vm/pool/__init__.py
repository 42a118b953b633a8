"""The pool: VMs that wait, and the templates that VMs start from."""
