"""One file a simulator, and what the tasks of each are."""
