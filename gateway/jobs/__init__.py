"""What outlives a connection: outcomes of orders, for requests that repeat them."""
