"""The actors of a node, one a file. They see ports and domain, never a driver; each builds its own child spec."""
