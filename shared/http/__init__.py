"""HTTP: the doors of every service, the server that bounds what comes in, and the guarded client for what goes out."""
