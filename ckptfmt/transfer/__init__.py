"""Between a directory and a store: walking, reading, taking in, giving back."""
