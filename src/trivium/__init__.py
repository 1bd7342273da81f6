"""Trivium: pre-train a vision-language-action base model from one recipe."""

__version__ = "0.1.0"
