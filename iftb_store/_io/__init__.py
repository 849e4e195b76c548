"""Private to the SDK: files replaced at once, tasks and threads, a fair semaphore, the turns of a session."""
