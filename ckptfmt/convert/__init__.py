"""Conversions between Hugging Face full models, PEFT adapters and universal checkpoints, with and without a store."""
