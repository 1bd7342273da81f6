"""The words everyone uses; imports nothing of ours."""
