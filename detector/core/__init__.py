"""Pure functions over NumPy arrays: no I/O, no clock, no logging, no randomness."""
