"""Assembly: addresses, flags and order of the instruction streams."""
