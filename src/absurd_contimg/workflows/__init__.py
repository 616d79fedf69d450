"""How stages become Absurd tasks. A workflow knows stages and the registry, but no backend."""
