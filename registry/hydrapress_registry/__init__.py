"""The benchmark registry: definitions, records and their comparison."""
