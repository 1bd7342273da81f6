"""Bricks that several wings build with; each is here because at least one file of the house uses it."""
