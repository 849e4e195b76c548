"""Tests of what the store promises where others mean harm."""
