"""What is wrong with robot episodes, found from their content: lags, lost and frozen frames, swapped cameras, twins."""
