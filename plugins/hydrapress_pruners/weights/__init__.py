"""Single weights: scored, selected, zeroed and promised zero."""
