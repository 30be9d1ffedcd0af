"""The structure of a store: looked at, and repaired from what is known elsewhere."""
