"""The whole model: segments become one row of tokens, the row becomes words and actions."""
