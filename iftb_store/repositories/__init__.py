"""The repositories, the API for users: each method checks and normalises its arguments, then calls the backend.

The constructor takes a session or a connected DatabaseManager; with a manager, each call runs in a new transaction.
"""
