"""Roots as values: compare, change and copy trees without a handle."""
