"""Image encoders and how they learn without a language model in the loop."""
