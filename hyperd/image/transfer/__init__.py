"""Images come and go: pull, push, load, save."""
