"""Published mixtures as data: every figure with the place it stands in, and our own sum beside the printed one."""
