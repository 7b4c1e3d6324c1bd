"""Credentials do not survive in text that other people's exceptions wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_core import redact

SECRET = st.text("abcdefghijklmnopqrstuvwxyz0123456789!#$%*+-_~", min_size=6, max_size=24).map(
    "S3cret".__add__
)


@given(
    st.sampled_from(
        [
            "password={}",
            "PASSWORD = {} host=db",
            "user=a password='{}' host=db",
            "user=a password='{} with blank' host=db",
            '{{"password": "{}"}}',
            "{{'secret_access_key': '{}'}}",
            "postgresql://app:{}@db/shop",
            "amqps://app:{}@db:5671/%2f",
            "Authorization: Bearer {}",
            "passphrase: {}",
            "api_key={}&x=1",
            "SASL token={}",
            'could not connect: "sslpassword={}"',
        ]
    ),
    SECRET,
)
def test_a_credential_is_blotted_out(template: str, secret: str) -> None:
    text = redact(template.format(secret))
    assert secret not in text
    assert "***" in text


@pytest.mark.parametrize(
    "text",
    ["connection to server at db, port 5432 failed", "relation shop.orders does not exist", "http://db/path"],
)
def test_other_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


@given(st.text(max_size=200))
def test_redacting_twice_changes_nothing_more_and_never_fails(text: str) -> None:
    once = redact(text)
    assert redact(once) == once
