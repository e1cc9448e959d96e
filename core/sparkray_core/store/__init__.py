"""The node's object store: one shared-memory segment, who may write where, and what goes to disk when it is full."""
