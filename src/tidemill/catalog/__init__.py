"""Floor 1: SQL records. SQLite or PostgreSQL behind one schema, with events, lineage, history and jobs."""
