"""HTTP routes, request and response bodies, and headers."""
