"""The engine under sparkray: tasks, actors and objects across processes and nodes. It knows nothing of Spark."""
