"""TODO gateway/metering."""
