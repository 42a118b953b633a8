"""The HTTP side of the daemon: parameters, answers, errors and the taking over of connections."""
