"""Trying a policy: rollouts in simulators, success with its interval, and the demonstrations of the demo."""
