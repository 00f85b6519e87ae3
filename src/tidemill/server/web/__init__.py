"""The dashboard: pages rendered on the server, each from one typed value."""
