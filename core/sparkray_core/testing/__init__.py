"""A whole cluster in one thread, on a virtual clock and from a seed, and builders for the tests of the models."""
