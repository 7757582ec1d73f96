"""Tokens of a caller in a minute."""

import pytest

from mistralchat_server.admission.quota import Quota


def test_a_minutes_worth_may_be_used_at_once() -> None:
    quota = Quota(600)
    assert quota.wait("a", 0) == 0
    quota.spend("a", 599, 0)
    assert quota.wait("a", 0) == 0
    quota.spend("a", 1, 0)
    assert quota.wait("a", 0) == pytest.approx(0.1)
    assert quota.wait("b", 0) == 0


def test_a_debt_is_paid_off_first() -> None:
    quota = Quota(600)
    quota.spend("a", 1_200, 0)
    assert quota.wait("a", 0) == pytest.approx(60.1)
    assert quota.wait("a", 60) == pytest.approx(0.1)
    assert quota.wait("a", 60.2) == 0


def test_nothing_is_saved_up_beyond_a_minute() -> None:
    quota = Quota(600)
    quota.spend("a", 100, 0)
    quota.spend("a", 600, 1_000)
    assert quota.wait("a", 1_000) > 0


def test_without_a_limit_nothing_is_kept() -> None:
    quota = Quota(0)
    quota.spend("a", 10**9, 0)
    assert quota.wait("a", 0) == 0
    assert quota._buckets == {}


def test_full_buckets_are_forgotten() -> None:
    quota = Quota(600)
    for number in range(10_000):
        quota.spend(f"caller {number}", 1, float(number))
    assert len(quota._buckets) <= 1_025
    quota.spend("in debt", 10**6, 10_000)
    for number in range(5_000):
        quota.spend(f"another {number}", 1, 10_000.0 + number)
    assert quota.wait("in debt", 15_000) > 0
