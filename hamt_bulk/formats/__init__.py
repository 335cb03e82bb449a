"""Roots of other libraries and of this one: recognised, read, written where the format is alive, converted."""
