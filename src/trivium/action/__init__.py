"""Action models: from what a policy knows to a chunk of commands."""
