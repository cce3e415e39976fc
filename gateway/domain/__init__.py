"""Domain values and rules. Pure: no wire format, no clock, no I/O."""
