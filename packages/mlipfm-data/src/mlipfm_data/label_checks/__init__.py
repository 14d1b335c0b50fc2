"""Are labels what they claim to be? Faults of units, signs, orders and bookkeeping, found from physics alone; see `checks.inspect`."""
