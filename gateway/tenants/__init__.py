"""Tenants and their API keys: store, authentication, provisioning and audit log."""
