"""Where ckptfmt meets other tools: one file a tool, each loading it only when it is used."""
