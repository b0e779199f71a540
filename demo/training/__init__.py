"""How the miniature was trained."""
