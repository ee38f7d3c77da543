"""fastgrad on several ranks."""
