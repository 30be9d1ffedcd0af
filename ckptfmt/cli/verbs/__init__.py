"""The verbs, one module each, or one a group. Each holds a `command`; `ckptfmt.cli.table` says which module to load."""
