"""The transferability health check: what frozen features already know, against controls, with intervals."""
