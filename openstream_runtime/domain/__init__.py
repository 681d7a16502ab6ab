"""What OpenStream is about: events, positions, topics, errors. Frozen, without I/O."""
