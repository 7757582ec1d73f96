"""The `mistralchat gateway` command: SMG, from its own package, in front of servers."""
