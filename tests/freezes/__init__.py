"""Random freezes of the connections between workers and Postgres."""
