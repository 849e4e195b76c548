"""Private helpers of the package: atomic files, tasks and threads, a fair semaphore, and the queue of a session's calls."""
