"""Strategies: where a Step runs. All of them take the same step as one process would, up to rounding."""
