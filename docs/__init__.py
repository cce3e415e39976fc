"""The documents. A package, so that mypy checks what writes their tables."""
