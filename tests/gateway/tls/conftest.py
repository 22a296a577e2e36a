from tests.fixtures.certificates import authority

__all__ = ["authority"]
