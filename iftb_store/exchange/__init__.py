"""Bars from an exchange: `fill` asks for the ones that are missing."""
