"""One loop that trains every stage, and what makes it safe to stop; knows neither data nor models."""
