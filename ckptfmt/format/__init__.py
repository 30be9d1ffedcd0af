"""The format as data: bytes in, frozen data out, and back."""
