"""Long work in processes of its own: the terminal never waits for it, and stopping it is what Ctrl-C is elsewhere."""
