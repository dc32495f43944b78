"""A race of prompts and numbers of neighbours on a held-out set, under a limit of money."""
