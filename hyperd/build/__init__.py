"""Images made here: commits of containers, builds of Dockerfiles."""
