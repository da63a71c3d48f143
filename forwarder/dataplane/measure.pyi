"""Has no names for Python."""
