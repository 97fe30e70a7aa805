"""How a program says that it cannot serve."""


class ServeError(Exception):
    """The device cannot be served as asked; the text is for the person who asked."""
