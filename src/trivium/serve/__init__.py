"""Handing a policy over: an exported folder, and what a robot loads from it."""
