"""The repositories that users hold: they check and normalise what they are given once, then delegate to the backend.

Each takes a session, or a connected DatabaseManager; given the manager, each call is a transaction of its own.
"""
