"""The repositories, which are the API for users: each call checks and normalises its arguments, then calls the backend.

A repository takes a session or a connected DatabaseManager; with a manager, each call runs in a new transaction.
"""
