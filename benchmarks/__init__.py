"""Measurements side by side with other libraries: speed, memory, scores."""
