"""Bytes at rest: the storage protocol, the seam to the file system, local files and memory."""
