"""The language model, its vocabulary, and how it keeps learning from text."""
