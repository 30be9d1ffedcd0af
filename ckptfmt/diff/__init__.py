"""Two checkpoints compared: pure functions over manifests and arrays, and one pass over what differs. No torch."""
