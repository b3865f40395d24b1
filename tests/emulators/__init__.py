"""Servers of our own, for stores that no package serves."""
