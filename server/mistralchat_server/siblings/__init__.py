"""Further front-end processes that listen on the same port and share the executor (`--front-ends`)."""
