"""The console: a web page for operators and teams, with sessions of its own. A session is never valid on `/v1`."""
