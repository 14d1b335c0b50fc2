"""Stores written in the formats of others, and what these cannot hold."""
