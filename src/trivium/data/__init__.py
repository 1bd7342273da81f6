"""From files to packed batches: sources, transforms, statistics, plans and the loader."""
