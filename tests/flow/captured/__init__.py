"""What the gateway exchanged with clients and providers when these files were written; see test_captured.py."""
