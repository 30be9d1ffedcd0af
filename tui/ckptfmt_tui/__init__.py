"""The terminal UI of ckptfmt."""
