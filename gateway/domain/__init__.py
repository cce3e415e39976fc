"""What is true, whoever asks: no wire, no clock, no I/O."""
