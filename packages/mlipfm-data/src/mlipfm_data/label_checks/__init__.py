"""Do labels agree with physics? Errors of units, signs, orders and bookkeeping, found from physics alone; see `checks.inspect`."""
