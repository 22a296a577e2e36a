from tests.fixtures.valkey import redis, valkey, valkey_process

__all__ = ["redis", "valkey", "valkey_process"]
