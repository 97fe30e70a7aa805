"""Pages of guest memory that lie apart, mapped a second time behind each other. For the engine alone."""
