"""TODO gateway/tenants."""
