"""What the pages show, as frozen data made by pure functions. Nothing here knows of Textual or of the store."""
