import pytest

from mistralchat_server.security.access import AccessTable

_TABLE = {"key:gateway": ["tokens"], "jwt:*": ["chat"], "cert:nobody": [], "*": ["chat", "tokens"]}


@pytest.mark.parametrize(
    ("identity", "services"),
    [
        ("key:gateway", {"tokens"}),
        ("jwt:gateway", {"chat"}),
        ("jwt:*", {"chat"}),
        ("cert:nobody", set()),
        ("cert:somebody", {"chat", "tokens"}),
        ("key:*", {"chat", "tokens"}),
    ],
)
def test_the_most_exact_entry_decides(identity: str, services: set[str]) -> None:
    table = AccessTable(_TABLE)
    assert {service for service in ("chat", "tokens") if table.allows(identity, service)} == services


def test_who_is_not_in_a_table_may_nothing() -> None:
    assert not AccessTable({"key:alice": ["chat"]}).allows("key:bob", "chat")


def test_without_a_table_all_may_all() -> None:
    assert AccessTable({}).allows("key:alice", "tokens")
