"""Re-encoding with more time: factors of adapters that are lost, found again in what they were merged into."""
