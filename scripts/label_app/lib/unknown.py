"""A name in a request that nothing has."""


class Unknown(Exception):
    """An image, a model, a method or a strategy that is not there; HTTP 404."""
