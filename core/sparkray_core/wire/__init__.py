"""How messages and values become bytes, and how bytes reach another process or another node."""
