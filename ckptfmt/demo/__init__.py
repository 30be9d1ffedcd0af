"""The demonstration: a small real model, the checkpoints people make of it, and what the store makes of those."""
