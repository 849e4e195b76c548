"""Tests of what the store promises against malicious input and databases."""
