"""Merging: a base and adapters become a model, streamed, against the base that was recorded and no other."""
