"""ckptfmt: a content-addressed store for fine-tuned model checkpoints."""
