"""The back end ``kubernetes``: services are workloads of a cluster, engines are its nodes."""
