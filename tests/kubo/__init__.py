"""A real Kubo daemon, and a proxy before it that does what networks do."""
