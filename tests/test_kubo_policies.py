"""When requests are sent again, which server is asked first, and where servers are: without any."""

import base64
import email.utils
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hamt_bulk.cas.ipfs import health
from hamt_bulk.cas.ipfs.address import address_of, gateway_address, origin_of
from hamt_bulk.cas.ipfs.credentials import Credentials, masked
from hamt_bulk.cas.ipfs.health import Health, in_order
from hamt_bulk.cas.ipfs.retry import MAX_RETRY_AFTER_SECONDS, TRANSIENT, delay_after, retry_after
from hamt_bulk.cas.retries import MAX_BACKOFF_SECONDS, Retries
from hamt_bulk.errors import InvalidInput

NOW = 1_700_000_000.0


@given(st.integers(0, 10), st.floats(0.001, 100), st.floats(1, 10), st.integers(0, 2000))
def test_delays_grow_up_to_a_bound(retries: int, initial: float, factor: float, number: int) -> None:
    found = delay_after(Retries(retries, initial, factor), number, {}, NOW)
    expected = min(initial * factor ** min(number, 200), MAX_BACKOFF_SECONDS)
    assert 0.75 * expected <= found <= 1.25 * expected


def test_workers_that_failed_together_do_not_come_back_together() -> None:
    retries = Retries(3, 1.0, 2.0)
    assert len({retries.delay(0) for _ in range(50)}) > 40


@pytest.mark.parametrize(
    "wrong",
    [
        (-1, 1.0, 2.0),
        (1.5, 1.0, 2.0),
        (None, 1.0, 2.0),
        (3, 0, 2.0),
        (3, -1.0, 2.0),
        (3, math.nan, 2.0),
        (3, math.inf, 2.0),
        (3, "1", 2.0),
        (3, 1.0, 0.5),
        (3, 1.0, math.nan),
        (3, 1.0, None),
    ],
    ids=str,
)
def test_what_is_no_policy_is_refused(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidInput, match="max_retries="):
        Retries(*wrong)


@given(st.integers(0, 10**12))
def test_seconds_to_wait_are_taken_up_to_a_bound(seconds: int) -> None:
    found = delay_after(Retries(), 0, {"retry-after": f" {seconds} "}, NOW)
    assert found == min(seconds, MAX_RETRY_AFTER_SECONDS)


@given(st.integers(-(10**7), 10**7))
def test_dates_to_wait_for_are_taken(seconds: int) -> None:
    date = email.utils.format_datetime(
        datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds), usegmt=True
    )
    assert retry_after({"retry-after": date}, NOW) == max(seconds, 0)
    assert retry_after({"retry-after": date.replace("GMT", "-0000")}, NOW) == max(seconds, 0)


@given(st.text(max_size=40) | st.sampled_from(["-1", "1.5", "1e3", "soon", "", "١٢", "Mon, 99 Feb", "0x10"]))
def test_what_cannot_be_read_is_not_waited_for(value: str) -> None:
    found = retry_after({"retry-after": value}, NOW)
    assert found is None or found >= 0


def test_what_may_fare_better_is_tried_again() -> None:
    assert {429, 500, 502, 503, 504} <= TRANSIENT
    assert not TRANSIENT & {200, 301, 400, 401, 403, 404, 405, 406, 410, 413, 501, 507}


def test_three_failures_in_a_row_have_a_server_asked_last_for_a_while() -> None:
    one, other = Health(), Health()
    servers = [("one", one), ("other", other)]
    for now in (0.0, 1.0):
        one.failed(now)
        assert in_order(servers, now) == servers
    one.failed(2.0)
    assert in_order(servers, 2.0) == servers[::-1]
    assert in_order(servers, 2.0 + health.COOL_DOWN_SECONDS - 0.01) == servers[::-1]
    assert in_order(servers, 2.0 + health.COOL_DOWN_SECONDS) == servers
    one.failed(40.0)
    assert one.is_cooling(41.0)  # once more is enough
    one.succeeded(0.1)
    assert in_order(servers, 41.0) == servers
    one.failed(42.0)
    assert not one.is_cooling(42.0)


@given(st.lists(st.booleans(), max_size=8))
def test_no_server_is_left_out_and_the_order_stays(cooling: list[bool]) -> None:
    servers = [(number, Health(cooled_at=10.0 if cold else 0.0)) for number, cold in enumerate(cooling)]
    numbers = [number for number, _ in in_order(servers, 5.0)]
    warm = [number for number, cold in enumerate(cooling) if not cold]
    assert numbers == warm + [number for number, cold in enumerate(cooling) if cold]


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_a_second_server_is_asked_within_bounds(times: list[float]) -> None:
    one = Health()
    for seconds in times:
        one.succeeded(seconds)
    assert health.LEAST_HEDGE_SECONDS <= one.hedge_after() <= health.MOST_HEDGE_SECONDS


def test_who_is_always_slow_has_more_time() -> None:
    one = Health()
    for _ in range(100):
        one.succeeded(0.5)
    assert one.hedge_after() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("url", "shown", "origin"),
    [
        ("http://127.0.0.1:5001", "http://127.0.0.1:5001", ("http", "127.0.0.1", 5001)),
        ("http://host", "http://host", ("http", "host", 80)),
        ("https://host", "https://host", ("https", "host", 443)),
        ("https://host:443/", "https://host:443", ("https", "host", 443)),
        ("HTTP://Host.Example:80//", "http://host.example:80", ("http", "host.example", 80)),
        ("http://[::1]:5001/", "http://[::1]:5001", ("http", "::1", 5001)),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]", ("http", "2001:db8::1", 80)),
        ("http://user:pass@[::1]:5001/a/", "http://[::1]:5001/a", ("http", "::1", 5001)),
        ("http://host/a/b/", "http://host/a/b", ("http", "host", 80)),
        ("http://host:5001/%C3%A9", "http://host:5001/%C3%A9", ("http", "host", 5001)),
        ("http://localhost:5001", "http://localhost:5001", ("http", "localhost", 5001)),
        ("http://bücher.example", "http://bücher.example", ("http", "bücher.example", 80)),
    ],
)
def test_an_address_is_its_url_without_what_is_not_needed(
    url: str, shown: str, origin: tuple[str, str, int]
) -> None:
    address, _ = address_of(url, "rpc_base_url")
    assert (address.url, str(address), address.origin, origin_of(url)) == (shown, shown, origin, origin)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://localhost:8080", "http://127.0.0.1:8080"),
        ("http://user:pass@LOCALHOST:8080/ipfs/", "http://127.0.0.1:8080"),
        ("https://localhost:8443", "https://localhost:8443"),  # its certificate is for that name
        ("https://gateway.example/ipfs", "https://gateway.example"),
        ("https://gateway.example:443/ipfs//", "https://gateway.example"),
        ("https://gateway.example//ipfs", "https://gateway.example"),
        ("https://gateway.example/at/ipfs", "https://gateway.example/at"),
        ("https://gateway.example/notipfs", "https://gateway.example/notipfs"),
        ("http://gateway.example:443", "http://gateway.example:443"),
        ("http://[::1]:8080/ipfs", "http://[::1]:8080"),
    ],
)
def test_a_gateway_is_without_the_end_that_all_have(url: str, shown: str) -> None:
    address, _ = gateway_address(url, "urls")
    assert address.url == shown
    assert address.origin == origin_of(shown)


WRONG = [
    "",
    "host",
    "127.0.0.1:5001",
    "localhost:5001",
    "ftp://host",
    "/ip4/127.0.0.1/tcp/5001",
    "http://",
    "http:///path",
    "http://:5001",
    "http://host:0",
    "http://host:65536",
    "http://host:port",
    "http://[::1",
    "http://a b",
    "http://a..b",
    f"http://{'a' * 64}.example",
    "http://host?query",
    "http://host#fragment",
    "kubo://host",
]


@pytest.mark.parametrize("url", WRONG)
def test_what_is_no_address_is_refused_with_the_name_of_the_option(url: str) -> None:
    for parse in (address_of, gateway_address):
        with pytest.raises(InvalidInput, match="rpc_base_url"):
            parse(url, "rpc_base_url")
    for wrong in (None, b"http://host", 5, ["http://host"]):
        with pytest.raises(InvalidInput, match=type(wrong).__name__):
            address_of(wrong, "rpc_base_url")  # type: ignore[arg-type]


words = st.text(min_size=1, max_size=12)


@given(words, words, st.sampled_from(["host", "[::1]", "127.0.0.1"]), st.none() | st.integers(1, 65535))
def test_user_and_password_come_as_a_header_and_are_not_shown(
    user: str, password: str, host: str, port: int | None
) -> None:
    try:
        pair = f"{quote(user, safe='')}:{quote(password, safe='')}"
    except UnicodeEncodeError:
        return  # half of a surrogate pair
    url = f"http://{pair}@{host}" + ("" if port is None else f":{port}")
    address, secret = address_of(url, "rpc_base_url")
    assert secret is not None
    assert base64.b64decode(secret.removeprefix("Basic ")).decode() == f"{user}:{password}"
    assert address == address_of(url.replace(f"{pair}@", ""), "rpc_base_url")[0]
    assert urlsplit(address.url).username is None


@pytest.mark.parametrize("mark", ["/", "?", "#", ":", "@", " ", "\n", "%", "é", "[", "\\"])
@pytest.mark.parametrize("number", ["", "86"])
@pytest.mark.parametrize("end", ["", "?query", "#fragment", ":port", "/path"])
def test_a_password_that_is_not_quoted_is_not_shown(mark: str, number: str, end: str) -> None:
    """Whatever it makes of the URL; digits before the mark look like a port."""
    url = f"http://user:{number}s3{mark}cret@host{end}".replace("86s3", "86")
    for parse in (address_of, gateway_address):
        try:
            shown = str(parse(url, "rpc_base_url")[0])
        except InvalidInput as error:
            shown = str(error)
        assert "cret" not in shown and "86" not in shown and "s3" not in shown


@given(st.text(max_size=60))
def test_no_text_is_an_error_of_another_kind(url: str) -> None:
    for parse in (address_of, gateway_address):
        for text in (url, f"http://{url}"):
            try:
                parse(text, "urls")
            except InvalidInput as error:
                assert "urls" in str(error)
        assert len(origin_of(f"https://{url}")) == 3


secrets = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=8, max_size=30).filter(
    str.strip
)


@given(secrets, secrets)
def test_secrets_are_taken_out_of_texts_however_they_are_written(token: str, password: str) -> None:
    basic = base64.b64encode(f"user:{password}".encode()).decode()
    given = Credentials({"Authorization": f"Bearer {token}", "X-Other": f"Basic {basic}"})
    for secret in (token, f"Bearer {token}", basic, password, quote(password, safe="")):
        shown = given.redacted(f"<<{secret}>>")
        assert shown == "<<…>>" or secret not in shown
    assert masked("nothing of it", []) == "nothing of it"


def test_a_clock_is_an_argument() -> None:
    """`time.monotonic` of the machine has no part in it."""
    one = Health()
    for _ in range(3):
        one.failed(time.monotonic() + 1e9)
    assert one.is_cooling(time.monotonic())
