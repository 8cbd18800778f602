"""The secret of a token is found in its link."""

from __future__ import annotations

import pytest

from absurd import InvalidOptionError, TokenError
from absurd.client.answers import read_secret


@pytest.mark.parametrize(
    "given",
    [
        "5ec2e7",
        " 5ec2e7\n",
        "https://shop.example/tokens/5ec2e7",
        "https://shop.example/a/b/tokens/5ec2e7/",
        "https://shop.example/tokens/5ec2e7?utm_source=mail/1",
        "https://shop.example/tokens/5ec2e7/?a=1&b=/#top",
        "https://shop.example/tokens/5ec2e7#a/b?",
    ],
)
def test_secret_is_found_in_a_link_and_what_was_put_behind_it(given: str) -> None:
    assert read_secret(given) == "5ec2e7"


@pytest.mark.parametrize(
    "given", ["", "/", "https://", "https://shop.example/?token=5ec2e7", "5ec2e7.", "5ec 2e7", "5e\x00", "ä", "x" * 300]
)
def test_what_cannot_be_a_token_is_unknown(given: str) -> None:
    with pytest.raises(TokenError) as caught:
        read_secret(given)
    assert caught.value.reason == "unknown"


def test_other_things_than_text_are_refused_with_their_value() -> None:
    with pytest.raises(InvalidOptionError, match="not 5"):
        read_secret(5)
