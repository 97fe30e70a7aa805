"""Sans-I/O sessions for both roles, and the thin socket transport below them."""
