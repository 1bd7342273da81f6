"""What is wrong with a set of robot episodes, found from its content: lags, lost and frozen frames, swapped cameras, twins."""
