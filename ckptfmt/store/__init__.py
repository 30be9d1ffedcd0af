"""The store: shards, catalog, refs, publishing and reading."""
