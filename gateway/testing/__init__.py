"""TODO gateway/testing."""
