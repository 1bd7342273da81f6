"""Bridges from picture vectors to the language model's embeddings."""
