"""HTTP in and out: routes, bodies, headers. What a request means is decided further down."""
