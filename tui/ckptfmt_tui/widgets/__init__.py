"""Widgets that know nothing of the store: they are given rows and tell what was picked."""
